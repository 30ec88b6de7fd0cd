import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.transforms import v2

from orch_core.learn.augment import MEAN, STD, View, blurring, crop_boxes, draw_view, plain_view, resampling
from orch_core.learn.data import Batch
from orch_core.learn.randomness import epoch_indices, generator, permuted


def batch_of(images, free=False):
    n = len(images)
    return Batch(images=images, free=torch.full((n,), free), labels=torch.zeros(n, dtype=torch.int64))


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
    still = torch.zeros(3, dtype=torch.bool)
    rows, columns = resampling(box[0], box[1], 28, out, still), resampling(box[2], box[3], 28, out, still)
    inside = images[:, :, top : top + height, left : left + width]
    expected = v2.functional.resize(inside, [out, out], antialias=True)
    got = rows[:, None] @ images @ columns[:, None].transpose(2, 3)
    margin = 0 if out <= 7 else out // 7 + 1  # at its border torchvision sees no pixel beyond the box
    inner = slice(margin, out - margin)
    torch.testing.assert_close(got[..., inner, inner], expected[..., inner, inner], atol=2e-3, rtol=0)


def test_a_blur_is_torchvisions():
    images, sigma = noise(2).float(), 1.3
    kernel = blurring(torch.full((2,), sigma), 28)
    expected = v2.functional.gaussian_blur(images, [15, 15], [sigma, sigma])
    got = kernel[:, None] @ images @ kernel[:, None].transpose(2, 3)
    torch.testing.assert_close(got[..., 8:-8, 8:-8], expected[..., 8:-8, 8:-8], atol=1e-2, rtol=0)
    torch.testing.assert_close(blurring(torch.zeros(1), 28)[0], torch.eye(28))


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


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 10_000), st.floats(0.05, 1), st.floats(1, 2))
def test_crops_lie_inside_the_image_and_have_the_area_asked_for(seed, smallest, ratio):
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


def test_jitter_and_solarise_do_what_their_names_say():
    images = torch.full((256, 1, 28, 28), 102, dtype=torch.uint8)
    images[:, :, 14:] = 153
    view = View(side=28, crop_min=1, crop_max=1, flip=False, ratio=1, brightness=0.4, jitter_share=0.5)
    values = draw_view(batch_of(images), view, generator(0, "t")) * STD + MEAN
    factors = values[:, 0, 0, 0] / 0.4
    torch.testing.assert_close(values[:, 0, 20, 0] / 0.6, factors)
    assert 0.6 <= factors.min() < 0.65 < 1.35 < factors.max() <= 1.4
    assert 90 < (factors == 1).sum() < 165
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
