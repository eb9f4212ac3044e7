"""What each photometric operation does to intensities, and what it leaves alone."""

from __future__ import annotations

import math

import pytest
import torch
from augmenting import SPACES, rng

from fedssl.data import augment_ops as ops


def test_contrast_keeps_the_mean_and_scales_the_deviation() -> None:
    image = torch.randn(8, 2, 16, 16) + 3
    changed = ops.adjust_contrast(image, 0.4, 1.0, rng())
    torch.testing.assert_close(changed.mean((2, 3)), image.mean((2, 3)), atol=1e-5, rtol=0)
    ratio = changed.std((2, 3)) / image.std((2, 3))
    torch.testing.assert_close(ratio[:, 0], ratio[:, 1])
    assert ratio.min() >= 0.6 - 1e-4
    assert ratio.max() <= 1.4 + 1e-4
    assert ratio.std() > 0.05


def test_gain_and_offset_are_one_number_per_channel() -> None:
    image = torch.randn(8, 2, 16, 16)
    ratio = (ops.gain_channels(image, 0.4, 1.0, rng()) / image).flatten(2)
    assert (ratio.amax(2) - ratio.amin(2)).max() < 1e-4
    assert ratio.amin() >= 0.6 - 1e-4
    assert ratio.amax() <= 1.4 + 1e-4
    shift = (ops.offset_channels(image, 0.3, 1.0, rng()) - image).flatten(2)
    assert (shift.amax(2) - shift.amin(2)).max() < 1e-5
    assert shift.abs().max() <= 0.3 + 1e-5
    assert shift[:, 0].ne(shift[:, 1]).any()


def test_mixing_is_convex_and_leaves_a_single_channel_alone() -> None:
    image = torch.randn(8, 3, 16, 16)
    mixed = ops.mix_channels(image, 0.5, 1.0, rng())
    assert (mixed <= image.amax(1, keepdim=True) + 1e-5).all()
    assert (mixed >= image.amin(1, keepdim=True) - 1e-5).all()
    assert not torch.equal(mixed, image)
    grey = image[:, :1].repeat(1, 3, 1, 1)
    torch.testing.assert_close(ops.mix_channels(grey, 0.5, 1.0, rng()), grey)
    assert torch.equal(ops.mix_channels(image[:, :1], 0.5, 1.0, rng()), image[:, :1])


def test_gamma_keeps_the_range_and_the_order_of_intensities() -> None:
    image = torch.randn(6, 2, 12, 12)
    changed = ops.adjust_gamma(image, 0.7, 1.0, rng())
    flat, moved = image.flatten(2), changed.flatten(2)
    torch.testing.assert_close(moved.amin(2), flat.amin(2))
    torch.testing.assert_close(moved.amax(2), flat.amax(2))
    assert (moved.gather(2, flat.argsort(2)).diff(dim=2) >= -1e-5).all()
    middle = torch.tensor([0.0, 0.25, 1.0]).reshape(1, 1, 1, 3)
    exponent = ops.adjust_gamma(middle, 0.7, 1.0, rng(1))[0, 0, 0, 1].log() / math.log(0.25)
    assert abs(exponent.log()) <= 0.7


def test_a_flat_image_survives_every_operation() -> None:
    image = torch.full((2, 3, 8, 8), 1.5)
    for operation in (*ops.PHOTOMETRIC.values(), ops.cut_out):
        assert operation(image, 0.5, 1.0, rng()).isfinite().all()


@pytest.mark.parametrize("space", SPACES)
def test_the_bias_field_is_smooth_and_bounded(space: tuple[int, ...]) -> None:
    image = torch.ones(8, 2, *space)
    image.flatten(2)[:, :, 0] = 0  # range 0 .. 1, so the result is the field itself
    field = ops.illuminate(image, 0.5, 1.0, rng()).flatten(2)[:, :, 1:].log()
    assert field.abs().max() <= 0.5 + 1e-5
    assert field.abs().amax((1, 2)).std() > 0.02
    assert torch.equal(field[:, 0], field[:, 1])
    width = space[-1]
    rows = field[:, 0, width - 1 :].reshape(8, -1, width)
    assert rows.diff(dim=2).abs().max() < 0.35
    assert rows.std() > 0.02


@pytest.mark.parametrize("space", SPACES)
def test_blur_spreads_a_point_as_a_gaussian_does(space: tuple[int, ...]) -> None:
    image = torch.zeros(6, 1, *space)
    centre = tuple(s // 2 for s in space)
    image[(slice(None), 0, *centre)] = 1
    blurred = ops.blur_gaussian(image, 0.8, 1.0, rng())[:, 0]
    total = blurred.flatten(1).sum(1)
    torch.testing.assert_close(total, torch.ones(6))
    variances = []
    for axis, size in enumerate(space):
        others = [a + 1 for a in range(len(space)) if a != axis]
        distance = (torch.arange(size) - centre[axis]).square()
        variances.append((blurred.sum(others) * distance).sum(1))
    for variance in variances[1:]:
        torch.testing.assert_close(variance, variances[0], rtol=1e-2, atol=1e-3)
    assert variances[0].max() <= 0.8**2 + 1e-3
    assert variances[0].max() > 0.2


def test_noise_has_the_declared_size_and_no_mean() -> None:
    image = torch.zeros(16, 1, 64, 64)
    noise = ops.noise_gaussian(image, 0.3, 1.0, rng())
    sigma = noise.std((1, 2, 3))
    assert sigma.max() <= 0.31
    assert 0.08 < sigma.mean() < 0.22
    assert noise.mean().abs() < 0.005


@pytest.mark.parametrize("space", SPACES)
def test_cutout_fills_one_box_with_the_mean(space: tuple[int, ...]) -> None:
    image = torch.randn(8, 2, *space)
    erased = ops.cut_out(image, 0.5, 1.0, rng(1))
    changed = (erased != image).any(1)
    mean = image.flatten(2).mean(2)
    for sample in range(8):
        where = changed[sample].nonzero()
        if len(where) == 0:
            continue
        low, high = where.amin(0), where.amax(0) + 1
        assert len(where) == int((high - low).prod())
        limit = torch.tensor([math.ceil(0.5 * s) + 1 for s in space])
        assert (high - low <= limit).all()
        inside = erased[sample][:, changed[sample]]
        torch.testing.assert_close(inside, mean[sample][:, None].expand_as(inside))
    assert changed.flatten(1).any(1).sum() >= 5


@pytest.mark.parametrize("name", [*ops.PHOTOMETRIC])
def test_probability_is_the_share_of_samples_that_change(name: str) -> None:
    image = torch.randn(400, 2, 6, 6)
    changed = ops.PHOTOMETRIC[name](image, 0.5, 0.3, rng())
    share = (changed != image).flatten(1).any(1).float().mean()
    assert 0.2 < share < 0.4
    assert torch.equal(ops.PHOTOMETRIC[name](image, 0.5, 0.0, rng()), image)
