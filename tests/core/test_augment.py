import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.transforms import v2

from orch_core.learn import augment
from orch_core.learn.augment import (
    MEAN,
    STD,
    View,
    blur_taps,
    crop_boxes,
    crop_taps,
    draw_view,
    plain_view,
    resampled,
)
from orch_core.learn.data import Batch
from orch_core.learn.randomness import epoch_indices, generator, permuted


def batch_of(images, free=False):
    n = len(images)
    return Batch(
        images=images, orientation_free=torch.full((n,), free), labels=torch.zeros(n, dtype=torch.int64)
    )


def noise(n=8, side=28, channels=3):
    return torch.from_numpy(
        np.random.default_rng(0).integers(0, 256, (n, channels, side, side)).astype(np.uint8)
    )


WHOLE = View(side=28, crop_min=1, crop_max=1, ratio=1, flip=False)


def test_a_view_that_changes_nothing_is_the_image():
    images = noise()
    torch.testing.assert_close(draw_view(batch_of(images), WHOLE, generator(0, "t")), plain_view(images))


@pytest.mark.parametrize("out", [28, 12, 56])
def test_a_crop_is_torchvisions_antialiased_resize_of_the_same_box(out):
    images = noise(3).float()
    top, left, height, width = 4, 9, 14, 7
    box = [torch.full((3,), value / 28) for value in (top, height, left, width)]
    view, still = View(side=out, crop_min=1, crop_max=1), torch.zeros(3)
    rows, columns = crop_taps(box[0], box[1], still, 28, view), crop_taps(box[2], box[3], still, 28, view)
    inside = images[:, :, top : top + height, left : left + width]
    expected = v2.functional.resize(inside, [out, out], antialias=True)
    got = resampled(images, [rows], [columns])
    margin = 0 if out <= 7 else out // 7 + 1  # at its border torchvision sees no pixel beyond the box
    inner = slice(margin, out - margin)
    torch.testing.assert_close(got[..., inner, inner], expected[..., inner, inner], atol=2e-3, rtol=0)


def test_a_blur_is_torchvisions():
    images, sigma = noise(2).float(), 1.3
    view = View(side=28, crop_min=1, crop_max=1, blur=(0, sigma * 224 / 28))
    taps = blur_taps(torch.full((2,), sigma), view)
    expected = v2.functional.gaussian_blur(images, [15, 15], [sigma, sigma])
    got = resampled(images, [taps], [taps])
    torch.testing.assert_close(got[..., 8:-8, 8:-8], expected[..., 8:-8, 8:-8], atol=1e-2, rtol=0)
    none = blur_taps(torch.zeros(2), view)
    torch.testing.assert_close(resampled(images, [none], [none]), images)


def test_flips_are_mirrors_and_only_images_without_up_and_down_turn_over():
    images = noise(64)
    view = View(side=28, crop_min=1, crop_max=1, ratio=1)
    plain = plain_view(images)
    mirrors = {"none": plain, "left-right": plain.flip(3), "up-down": plain.flip(2), "both": plain.flip(2, 3)}
    for free in (False, True):
        drawn = draw_view(batch_of(images, free), view, generator(0, "t"))
        kinds = {
            name
            for name, mirror in mirrors.items()
            for a, b in zip(drawn, mirror, strict=True)
            if torch.allclose(a, b, atol=1e-5)
        }
        assert kinds == (set(mirrors) if free else {"none", "left-right"})


def matrix(start, length, mirror, sigma, in_side, out_side):
    """Crop, resize and blur along one side as one dense matrix, float64 [out, in], from the formulas."""
    step = length * in_side / out_side
    centres = start * in_side + (np.arange(out_side) + 0.5) * step
    resize = np.maximum(0, 1 - np.abs(np.arange(in_side) + 0.5 - centres[:, None]) / max(1, step))
    resize = (resize / resize.sum(1, keepdims=True))[:: -1 if mirror else 1]
    distance = np.subtract.outer(np.arange(out_side), np.arange(out_side))
    blur = np.exp(-(distance**2) / (2 * sigma**2)) if sigma else np.eye(out_side)
    return blur / blur.sum(1, keepdims=True) @ resize


def one_view(image, view, draws, free):
    """The view of one image [c, h, w] whose numbers are `draws`, by dense matrices in float64."""
    (top, height, left, width), (mirrored, turned), blur, jitter, solar = draws
    sigma = blur[0] * view.side / 224 if blur[1] < view.blur_share else 0
    rows = matrix(top, height, view.flip and free and turned < 0.5, sigma, image.shape[1], view.side)
    columns = matrix(left, width, view.flip and mirrored < 0.5, sigma, image.shape[1], view.side)
    values = rows @ (image / 255) @ columns.T
    if jitter[1] < view.jitter_share:
        brightness, contrast = 1 + np.array([view.brightness, view.contrast]) * (2 * jitter[0] - 1)
        values = np.clip(values * brightness, 0, 1)
        values = np.clip(values.mean() + contrast * (values - values.mean()), 0, 1)
    if solar < view.solarize_share:
        values = np.where(values >= 0.5, 1 - values, values)
    return (values - MEAN) / STD


shares = st.sampled_from([0.0, 0.5, 1.0])


@settings(deadline=None, max_examples=60)
@given(
    st.integers(0, 10_000),
    st.sampled_from([28, 31, 64, 96, 224, 512]),
    st.builds(
        View,
        side=st.sampled_from([28, 33, 64, 96, 224]),
        crop_min=st.floats(0.05, 0.3),
        crop_max=st.floats(0.3, 1),
        ratio=st.floats(1, 2),
        flip=st.booleans(),
        brightness=st.floats(0, 0.8),
        contrast=st.floats(0, 0.8),
        jitter_share=shares,
        blur_share=shares,
        blur=st.tuples(st.floats(0.1, 1), st.floats(1, 4)),
        solarize_share=shares,
    ),
    st.sampled_from([1, 3]),
)
def test_a_view_follows_the_formulas_image_by_image(seed, side, view, channels):
    n, rng = 3, generator(seed, "t")
    images, free = noise(n, side, channels), torch.tensor([True, False, True])
    drawn = draw_view(Batch(images=images, orientation_free=free, labels=free), view, generator(seed, "t"))
    low, high = view.blur
    draws = zip(
        crop_boxes(n, view, rng).astype(np.float64),
        rng.random((n, 2)),
        zip(low + (high - low) * rng.random(n), rng.random(n), strict=True),
        zip(rng.random((n, 2)), rng.random(n), strict=True),
        rng.random(n),
        strict=True,
    )
    for got, image, numbers, is_free in zip(drawn, images.numpy(), draws, free, strict=True):
        assert np.abs(got.numpy() - one_view(image, view, numbers, is_free)).max() < 1e-3


def test_a_view_does_not_depend_on_how_a_batch_is_cut_into_chunks(monkeypatch):
    view = View(
        side=28, crop_min=0.2, crop_max=1, contrast=0.4, jitter_share=0.8, blur_share=0.5, solarize_share=0.5
    )
    whole = draw_view(batch_of(noise(9, 64), free=True), view, generator(3, "views"))
    monkeypatch.setattr(augment, "CPU_CHUNK", 4 * 3 * 64 * 64)
    cut = draw_view(batch_of(noise(9, 64), free=True), view, generator(3, "views"))
    torch.testing.assert_close(cut, whole, rtol=0, atol=0)


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 10_000), st.floats(0.05, 1), st.floats(1, 2))
def test_crops_are_inside_the_image_and_have_the_requested_area(seed, smallest, ratio):
    view = View(side=28, crop_min=smallest, crop_max=1, ratio=ratio)
    top, height, left, width = crop_boxes(200, view, np.random.default_rng(seed)).T
    assert (top >= 0).all()
    assert (left >= 0).all()
    assert (top + height <= 1 + 1e-6).all()
    assert (left + width <= 1 + 1e-6).all()
    assert (height * width >= smallest / ratio - 1e-6).all()
    assert (height * width <= 1 + 1e-6).all()


def test_crop_areas_are_uniform():
    boxes = crop_boxes(20_000, View(side=28, crop_min=0.2, crop_max=0.6, ratio=1), np.random.default_rng(0))
    areas = np.sort(boxes[:, 1] * boxes[:, 3])
    assert np.abs(areas - np.linspace(0.2, 0.6, 20_000)).max() < 0.01  # Kolmogorov-Smirnov at 1%


def test_jitter_and_solarise_change_images_as_defined():
    images = torch.full((256, 1, 28, 28), 102, dtype=torch.uint8)
    images[:, :, 14:] = 153
    view = View(side=28, crop_min=1, crop_max=1, flip=False, ratio=1, brightness=0.4, jitter_share=0.5)
    values = draw_view(batch_of(images), view, generator(0, "t")) * STD + MEAN
    factors = values[:, 0, 0, 0] / 0.4
    torch.testing.assert_close(values[:, 0, 20, 0] / 0.6, factors)
    assert 0.6 <= factors.min() < 0.65 < 1.35 < factors.max() <= 1.4
    assert 90 < factors.isclose(torch.ones(())).sum() < 165
    solar = View(side=28, crop_min=1, crop_max=1, flip=False, ratio=1, solarize_share=1)
    values = draw_view(batch_of(images), solar, generator(0, "t")) * STD + MEAN
    torch.testing.assert_close(values[:, 0, 0, 0], torch.full((256,), 0.4))
    torch.testing.assert_close(values[:, 0, 20, 0], torch.full((256,), 0.4))


def test_an_images_view_depends_on_its_place_in_the_step_alone():
    images, view = (
        noise(8),
        View(side=28, crop_min=0.2, crop_max=1, contrast=0.4, jitter_share=0.8, blur_share=0.5),
    )
    whole = draw_view(batch_of(images), view, generator(3, "views", 17))
    torch.testing.assert_close(
        draw_view(batch_of(images), view, generator(3, "views", 17)), whole, rtol=0, atol=0
    )
    assert not torch.equal(draw_view(batch_of(images), view, generator(3, "views", 18)), whole)
    assert not torch.equal(draw_view(batch_of(images), view, generator(4, "views", 17)), whole)


def test_streams_do_not_overlap():
    draws = [
        generator(seed, stream, step).random(50) for seed in (0, 1) for stream in "ab" for step in (0, 1, 2)
    ]
    assert len(np.unique(np.concatenate(draws))) == 12 * 50


@settings(deadline=None, max_examples=50)
@given(st.integers(1, 5000), st.integers(0, 1000))
def test_every_epoch_shows_every_image_once_in_an_order_of_its_own(n, seed):
    epochs = [epoch_indices(epoch * n, n, n, seed) for epoch in range(2)]
    for epoch in epochs:
        assert (np.sort(epoch) == np.arange(n)).all()
    if n > 20:
        assert (epochs[0] != epochs[1]).any()


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 300), st.integers(0, 2000), st.integers(1, 200))
def test_positions_do_not_depend_on_how_they_are_cut_into_batches(n, first, count):
    whole = epoch_indices(first, count, n, 5)
    parts = np.concatenate([epoch_indices(first + i, 1, n, 5) for i in range(count)])
    assert (whole == parts).all()


def test_orders_look_random():
    # the mean displacement of a random permutation of n is n / 3
    n, keys = 4096, np.tile(np.array([[3, 1, 4, 1, 5, 9]], np.uint64), (4096, 1))
    order = permuted(np.arange(n, dtype=np.uint64), n, keys).astype(np.int64)
    assert np.abs(order - np.arange(n)).mean() == pytest.approx(n / 3, rel=0.05)
    assert abs(np.corrcoef(order[:-1], order[1:])[0, 1]) < 0.05
