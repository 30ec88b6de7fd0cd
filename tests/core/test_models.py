"""Names of ViT shapes against timm's own models."""

import pytest

from orch_core.vit import LADDER, TIMM, encoder_params, known_models, named_model, shape_of

torch = pytest.importorskip("torch")
timm = pytest.importorskip("timm")


@pytest.mark.parametrize("name", [name for name in TIMM if "gigantic" not in name])
def test_a_timm_name_is_the_shape_that_timm_builds(name: str):
    model = named_model(name)
    with torch.device("meta"):
        real = timm.create_model(name, num_classes=0)
    patch, resolution = real.patch_embed.patch_size[0], real.patch_embed.img_size[0]
    assert (real.embed_dim, len(real.blocks), real.blocks[0].attn.num_heads) == (
        model.width,
        model.depth,
        model.heads,
    )
    shape = shape_of(
        width=model.width,
        depth=model.depth,
        mlp_ratio=model.mlp_ratio,
        resolution=resolution,
        patch=patch,
        channels=3,
    )
    assert sum(p.numel() for p in real.parameters()) == encoder_params(shape, learned_positions=True)


def test_the_ladder_has_the_published_sizes():
    # Dosovitskiy et al. 2021, table 1 (B 86M, L 307M, H 632M); Zhai et al. 2022, table 2 (g 1011M, G 1843M)
    published = {"B": 86e6, "L": 307e6, "H": 632e6, "g": 1011e6, "G": 1843e6}
    for size, params in published.items():
        width, depth, _, ratio = LADDER[size]
        shape = shape_of(width=width, depth=depth, mlp_ratio=ratio, resolution=224, patch=16, channels=3)
        assert encoder_params(shape, learned_positions=True) == pytest.approx(params, rel=0.02)


def test_every_known_name_is_a_shape():
    assert all(named_model(name).width % named_model(name).heads == 0 for name in known_models())
