"""Losses computed a second time, in numpy and float64, straight from the papers' formulas.

Nothing is shared with the product: images are cut by loops, tokens are put back in the order of the image,
every prediction is made and then masked, probabilities are written out. `W` is a state dict as float64 arrays.
"""

import math

import numpy as np

_erf = np.vectorize(math.erf)


def weights(module):
    return {name: tensor.detach().double().numpy() for name, tensor in module.state_dict().items()}


def gelu(x):
    return 0.5 * x * (1 + _erf(x / math.sqrt(2)))


def layer_norm(x, W, name, eps=1e-6):
    mean = x.mean(-1, keepdims=True)
    variance = ((x - mean) ** 2).mean(-1, keepdims=True)
    return (x - mean) / np.sqrt(variance + eps) * W[f"{name}.weight"] + W[f"{name}.bias"]


def linear(x, W, name):
    y = x @ W[f"{name}.weight"].T
    return y + W[f"{name}.bias"] if f"{name}.bias" in W else y


def softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def log_softmax(x):
    x = x - x.max(-1, keepdims=True)
    return x - np.log(np.exp(x).sum(-1, keepdims=True))


def attention(x, W, name, heads):
    n, tokens, width = x.shape
    qkv = linear(x, W, f"{name}.qkv").reshape(n, tokens, 3, heads, width // heads)
    q, k, v = (qkv[:, :, index].transpose(0, 2, 1, 3) for index in range(3))
    mixed = softmax(q @ k.transpose(0, 1, 3, 2) / math.sqrt(width // heads)) @ v
    return linear(mixed.transpose(0, 2, 1, 3).reshape(n, tokens, width), W, f"{name}.proj")


def block(x, W, name, heads):
    scale1, scale2 = (W.get(f"{name}.ls{index}.gamma", 1.0) for index in (1, 2))
    x = x + scale1 * attention(layer_norm(x, W, f"{name}.norm1"), W, f"{name}.attn", heads)
    hidden = gelu(linear(layer_norm(x, W, f"{name}.norm2"), W, f"{name}.mlp.fc1"))
    return x + scale2 * linear(hidden, W, f"{name}.mlp.fc2")


def blocks(x, W, name, heads):
    index = 0
    while f"{name}.{index}.norm1.weight" in W:
        x = block(x, W, f"{name}.{index}", heads)
        index += 1
    return x


def cut(images, patch):
    """Patches [n, l, c, p, p] by loops."""
    h, w = images.shape[2:]
    out = [
        images[:, :, row : row + patch, column : column + patch]
        for row in range(0, h, patch)
        for column in range(0, w, patch)
    ]
    return np.stack(out, 1)


def embedded(images, W, name, patch):
    """A convolution of stride `patch`, written as its definition, plus positions of the patches."""
    kernel, bias = W[f"{name}.patch_embed.proj.weight"], W[f"{name}.patch_embed.proj.bias"]
    return np.einsum("nlcij,dcij->nld", cut(images, patch), kernel) + bias


def vit(images, W, name, patch, heads, *, replaced=None, keep=None):
    """Normed tokens, class token first. replaced: [n, l] patches that become `mask_token`; keep: [n, k] patches seen."""
    tokens = embedded(images, W, name, patch)
    if replaced is not None:
        tokens = np.where(replaced[:, :, None], W["mask_token"].reshape(1, 1, -1), tokens)
    position = W[f"{name}.pos_embed"]
    tokens = tokens + resized(position[:, 1:], tokens.shape[1])
    if keep is not None:
        tokens = np.stack([row[chosen] for row, chosen in zip(tokens, keep, strict=True)])
    start = np.broadcast_to(W[f"{name}.cls_token"] + position[:, :1], (len(tokens), 1, tokens.shape[2]))
    return layer_norm(
        blocks(np.concatenate([start, tokens], 1), W, f"{name}.blocks", heads), W, f"{name}.norm"
    )


def resized(grid, count):
    """Bicubic positions of smaller crops: torch's own interpolation, the one thing that is not written out here."""
    import torch

    side, wanted = math.isqrt(grid.shape[1]), math.isqrt(count)
    if side == wanted:
        return grid
    table = torch.from_numpy(grid).transpose(1, 2).reshape(1, -1, side, side)
    small = torch.nn.functional.interpolate(table, (wanted, wanted), mode="bicubic", antialias=True)
    return small.flatten(2).transpose(1, 2).numpy()


def mae(images, seen, W, *, patch, heads, decoder_heads, norm_pixels=True):
    """He et al. 2022, section 3: decode the full set in image order, predict every patch, average over masked ones."""
    latent = vit(images, W, "encoder", patch, heads, keep=seen)
    latent = linear(latent, W, "decoder.embed")
    n, count = len(images), (images.shape[2] // patch) ** 2
    full = np.broadcast_to(W["decoder.mask_token"], (n, count, latent.shape[2])).copy()
    masked = np.ones((n, count))
    for row in range(n):
        for place, patch_index in enumerate(seen[row]):
            full[row, patch_index] = latent[row, 1 + place]
            masked[row, patch_index] = 0
    position = sincos(latent.shape[2], images.shape[2] // patch)
    tokens = np.concatenate([latent[:, :1], full], 1) + position
    decoded = layer_norm(blocks(tokens, W, "decoder.blocks", decoder_heads), W, "decoder.norm")
    predicted = linear(decoded, W, "decoder.predict")[:, 1:]
    target = cut(images, patch).reshape(n, count, -1)
    if norm_pixels:
        mean = target.mean(-1, keepdims=True)
        variance = ((target - mean) ** 2).sum(-1, keepdims=True) / (target.shape[-1] - 1)
        target = (target - mean) / np.sqrt(variance + 1e-6)
    each = ((predicted - target) ** 2).mean(-1)
    return (each * masked).sum() / masked.sum()


def simmim(images, hidden, W, *, patch, heads):
    """Xie et al. 2022, section 3: |prediction - pixel| averaged over the masked pixels."""
    masked = np.zeros((len(images), (images.shape[2] // patch) ** 2), bool)
    for row, chosen in enumerate(hidden):
        masked[row, chosen] = True
    predicted = linear(vit(images, W, "encoder", patch, heads, replaced=masked)[:, 1:], W, "predict")
    target = cut(images, patch).reshape(predicted.shape)
    return np.abs(predicted - target)[masked].mean()


def ijepa(images, seen, targets, W, *, patch, heads, predictor_heads):
    """Assran et al. 2023, section 3, block by block: smooth L1 to the normed representation of the teacher."""
    whole = vit(images, W, "teacher_encoder", patch, heads)[:, 1:]
    whole = (whole - whole.mean(-1, keepdims=True)) / np.sqrt(whole.var(-1, keepdims=True) + 1e-5)
    context = linear(vit(images, W, "encoder", patch, heads, keep=seen)[:, 1:], W, "predictor.embed")
    position = sincos(context.shape[2], images.shape[2] // patch)[1:]
    total, count = 0.0, 0
    for image in range(len(images)):
        for block_ in targets[image]:
            tokens = np.concatenate(
                [context[image] + position[seen[image]], W["predictor.mask_token"][0] + position[block_]]
            )[None]
            decoded = layer_norm(blocks(tokens, W, "predictor.blocks", predictor_heads), W, "predictor.norm")
            difference = np.abs(
                linear(decoded[0, len(seen[image]) :], W, "predictor.predict") - whole[image, block_]
            )
            each = np.where(difference < 1, difference**2 / 2, difference - 0.5)
            total, count = total + each.sum(), count + each.size
    return total / count


def supervised(images, labels, W, *, patch, heads):
    """Cross-entropy of a linear head on the mean of the patch tokens."""
    logs = log_softmax(linear(vit(images, W, "encoder", patch, heads)[:, 1:].mean(1), W, "head"))
    return -np.mean([logs[row, label] for row, label in enumerate(labels)])


def dino_head(x, W, name):
    """MLP with GELU, unit length, weight-normed prototypes (Caron et al. 2021, appendix C)."""
    x = linear(gelu(linear(gelu(linear(x, W, f"{name}.mlp.0")), W, f"{name}.mlp.2")), W, f"{name}.mlp.4")
    x = x / np.linalg.norm(x, axis=-1, keepdims=True)
    prototypes = W[f"{name}.prototypes"]
    return x @ (prototypes / np.linalg.norm(prototypes, axis=1, keepdims=True)).T


def dinov2(crops, masked, small, W, *, patch, heads, student_temperature, ibot_weight=1.0, koleo_weight=0.1):
    """Oquab et al. 2023, section 4, crop by crop and image by image.

    18 pairs of (student crop, teacher crop), none of a crop with itself; patch term averaged within an image over its masked
    patches, then over the 2n crops; KoLeo on the class tokens of each group of global crops.
    """
    n, temperature = len(crops) // 2, W["temperature"]
    teacher = vit(crops, W, "teacher_encoder", patch, heads)
    student = vit(crops, W, "encoder", patch, heads, replaced=masked)
    local = vit(small, W, "encoder", patch, heads)[:, 0] if len(small) else student[:0, 0]
    crop_logs = log_softmax(
        dino_head(np.concatenate([student[:, 0], local]), W, "head") / student_temperature
    )
    aims = softmax((dino_head(teacher[:, 0], W, "teacher_head") - W["class_centre"]) / temperature)
    terms = []
    for s in range(len(crop_logs) // n):
        for t in (0, 1):
            if s != t:
                pairs = [-(aims[t * n + i] * crop_logs[s * n + i]).sum() for i in range(n)]
                terms.append(sum(pairs) / n)
    loss = sum(terms) / len(terms)
    patches = 0.0
    for image, mask in enumerate(masked):
        if mask.any() and ibot_weight:
            aim = softmax(
                (dino_head(teacher[image, 1:][mask], W, "teacher_head") - W["patch_centre"]) / temperature
            )
            logs = log_softmax(dino_head(student[image, 1:][mask], W, "head") / student_temperature)
            patches += -(aim * logs).sum(-1).mean()
    spread = 0.0
    for group in (student[:n, 0], student[n:, 0]):
        unit = group / np.linalg.norm(group, axis=1, keepdims=True)
        distances = [
            min(np.linalg.norm(unit[i] - unit[j] + 1e-8) for j in range(n) if j != i) for i in range(n)
        ]
        spread -= np.mean(np.log(np.array(distances) + 1e-8))
    return loss + ibot_weight * patches / len(crops) + koleo_weight * spread


def sincos(width, side):
    """Vaswani et al. 2017, section 3.5, in two dimensions: the first half of the width follows the column, the other the row."""
    table = np.zeros((1 + side * side, width))
    quarter = width // 4
    for row in range(side):
        for column in range(side):
            for i in range(quarter):
                frequency = 10000.0 ** (-i / quarter)
                entry = table[1 + row * side + column]
                entry[i], entry[quarter + i] = math.sin(column * frequency), math.cos(column * frequency)
                entry[2 * quarter + i] = math.sin(row * frequency)
                entry[3 * quarter + i] = math.cos(row * frequency)
    return table


def batch_norm(x, scale=1.0, shift=0.0, eps=1e-5):
    return (x - x.mean(0)) / np.sqrt(x.var(0) + eps) * scale + shift


def moco_head(x, W, name):
    """Linear, batch norm, ReLU; the last batch norm without scale and shift (Chen et al. 2021, section 4.1)."""
    index = 0
    while f"{name}.{index}.weight" in W:
        x = linear(x, W, f"{name}.{index}")
        if f"{name}.{index + 1}.weight" in W:
            x = np.maximum(batch_norm(x, W[f"{name}.{index + 1}.weight"], W[f"{name}.{index + 1}.bias"]), 0)
        else:
            x = batch_norm(x)
        index += 3
    return x


def moco(first, second, W, *, patch, heads, temperature):
    """Algorithm 1: ctr(q1, k2) + ctr(q2, k1), ctr = 2 tau x cross-entropy of q k^T / tau against the diagonal."""

    def query(view):
        return moco_head(
            moco_head(vit(view, W, "encoder", patch, heads)[:, 0], W, "projector"), W, "predictor"
        )

    def key(view):
        return moco_head(vit(view, W, "teacher_encoder", patch, heads)[:, 0], W, "teacher_projector")

    def contrast(q, k):
        q, k = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (q, k))
        total = 0.0
        for i in range(len(q)):
            scores = np.array([q[i] @ k[j] / temperature for j in range(len(k))])
            total -= scores[i] - np.log(np.exp(scores).sum())
        return 2 * temperature * total / len(q)

    return contrast(query(first), key(second)) + contrast(query(second), key(first))
