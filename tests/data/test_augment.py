"""One geometry for images, masks and stored maps; seeds decide everything."""

from __future__ import annotations

import math

import pytest
import torch
from augmenting import GEOMETRY, OFF, SPACES, blocks, only, rng
from hypothesis import given, settings
from hypothesis import strategies as st

from fedssl.config import AugmentConfig
from fedssl.data import augment_ops as ops
from fedssl.data.augment import (
    augment_labeled,
    augment_unlabeled,
    identity_theta,
    invert_theta,
    random_theta,
    warp,
)


@pytest.mark.parametrize("space", SPACES)
def test_all_zero_is_the_identity_bit_for_bit(space: tuple[int, ...]) -> None:
    image, label = torch.randn(3, 2, *space), blocks(space)
    stored = {"p": torch.rand(3, 1, *space).half()}
    moved, moved_label = augment_labeled(image, label, OFF, rng())
    views, maps = augment_unlabeled(image, stored, OFF, rng())
    for result in (moved, views["weak"].image, views["strong"].image):
        assert torch.equal(result, image)
    assert torch.equal(moved_label, label)
    assert torch.equal(maps["p"], stored["p"])
    assert torch.equal(views["weak"].theta, identity_theta(image))


@pytest.mark.parametrize("space", SPACES)
def test_image_label_and_stored_maps_move_together(space: tuple[int, ...]) -> None:
    # Every pixel shows its own coordinates, counted from 1: linear interpolation of them is exact,
    # so the nearest neighbour must lie within half a pixel.
    axes = torch.meshgrid(*(torch.arange(1, n + 1) for n in space), indexing="ij")
    image = torch.stack(axes).float().repeat(4, *(1,) * (len(space) + 1))
    stored = {"u8": image.byte(), "f16": image.half()}
    views, maps = augment_unlabeled(image, stored, GEOMETRY, rng(1))
    labeled, label = augment_labeled(image, image[:, 0].long(), GEOMETRY, rng(1))
    inside = label > 0
    assert 0.5 < inside.float().mean() < 1
    assert torch.equal(labeled, views["weak"].image)
    assert torch.equal(maps["u8"][:, 0].long(), label)
    assert torch.equal(maps["f16"].byte(), maps["u8"])
    far = (views["weak"].image - maps["u8"]).abs().amax(1)
    assert far[inside].max() <= 0.5 + 1e-3
    assert not torch.equal(labeled, image)


def test_stored_maps_keep_their_dtype_and_values() -> None:
    stored = {
        "u8": torch.full((2, 1, 16, 16), 255, dtype=torch.uint8),
        "f16": torch.full((2, 3, 16, 16), 0.1, dtype=torch.float16),
        "f32": torch.rand(2, 1, 16, 16),
    }
    _, maps = augment_unlabeled(torch.randn(2, 1, 16, 16), stored, GEOMETRY, rng())
    assert {k: v.dtype for k, v in maps.items()} == {k: v.dtype for k, v in stored.items()}
    assert set(maps["u8"].unique().tolist()) <= {0, 255}
    assert set(maps["f16"].unique().tolist()) <= {0.0, torch.tensor(0.1).half().item()}


@pytest.mark.parametrize("space", SPACES)
def test_labels_keep_only_existing_values(space: tuple[int, ...]) -> None:
    label = blocks(space) * 7
    _, moved = augment_labeled(torch.randn(3, 1, *space), label, AugmentConfig(), rng(3))
    assert moved.dtype == torch.int64
    assert moved.shape == label.shape
    assert set(moved.unique().tolist()) <= set(label.unique().tolist()) | {0}


@pytest.mark.parametrize("space", SPACES)
def test_the_same_seed_repeats_and_another_differs(space: tuple[int, ...]) -> None:
    image, label = torch.randn(3, 2, *space), blocks(space)
    first, first_label = augment_labeled(image, label, AugmentConfig(), rng(5))
    again, again_label = augment_labeled(image, label, AugmentConfig(), rng(5))
    other, _ = augment_labeled(image, label, AugmentConfig(), rng(6))
    assert torch.equal(first, again)
    assert torch.equal(first_label, again_label)
    assert not torch.equal(first, other)
    assert first.dtype == torch.float32
    assert first.isfinite().all()


def test_samples_of_a_batch_get_different_augmentation() -> None:
    image = torch.randn(1, 1, 32, 32).repeat(2, 1, 1, 1)
    views, _ = augment_unlabeled(image, {}, AugmentConfig(), rng())
    assert not torch.equal(views["weak"].theta[0], views["weak"].theta[1])


def test_views_share_geometry_and_the_weak_one_has_nothing_else() -> None:
    image = torch.randn(3, 3, 32, 32)
    before = image.clone()
    views, _ = augment_unlabeled(image, {}, AugmentConfig(), rng(2))
    weak, strong = views["weak"], views["strong"]
    assert torch.equal(weak.theta, strong.theta)
    assert torch.equal(weak.image, warp(image, weak.theta))
    assert not torch.equal(weak.image, strong.image)
    assert torch.equal(image, before)


def test_labeled_samples_get_no_photometric_change_when_switched_off() -> None:
    image, label = torch.randn(3, 3, 32, 32), blocks((32, 32))
    config = AugmentConfig(photometric_labeled=False)
    views, _ = augment_unlabeled(image, {}, config, rng(2))
    assert torch.equal(augment_labeled(image, label, config, rng(2))[0], views["weak"].image)


@pytest.mark.parametrize("space", SPACES)
def test_outside_the_field_of_view_is_one_colour_and_background(space: tuple[int, ...]) -> None:
    image, label = torch.randn(64, 2, *space), torch.ones(64, *space, dtype=torch.int64)
    cut, cut_label = ops.cut_field_of_view(image, label, 0.5, rng(1))
    outside = cut_label == 0
    assert torch.equal(cut.mean(1)[~outside], image.mean(1)[~outside])
    for before, after, gone in zip(image, cut, outside, strict=True):
        assert torch.equal(before, after) == (not gone.any())
        for channel in after:
            assert len(channel[gone].unique()) <= 1
    share = outside.flatten(1).float().mean(1)
    assert 0.3 < (share > 0).float().mean() < 0.7
    assert share.max() < 0.95
    assert cut_label.dtype == torch.int64


def test_the_field_of_view_changes_nothing_else_of_a_labeled_sample() -> None:
    image, label = torch.randn(8, 3, 32, 32), torch.ones(8, 32, 32, dtype=torch.int64)
    config = AugmentConfig(probability=1.0)
    whole, _ = augment_labeled(image, label, config, rng(4))
    cut, cut_label = augment_labeled(
        image, label, config.model_copy(update={"field_of_view": 1.0}), rng(4)
    )
    inside = (cut_label > 0)[:, None].expand_as(cut)
    assert torch.equal(cut[inside], whole[inside])
    assert not torch.equal(cut, whole)


@pytest.mark.parametrize("name", [*ops.PHOTOMETRIC, "cutout"])
def test_switching_one_operation_off_leaves_the_draws_of_the_others(name: str) -> None:
    image = torch.randn(4, 3, 24, 24)
    full = AugmentConfig(probability=1.0)
    without, _ = augment_unlabeled(image, {}, full.model_copy(update={name: 0.0}), rng(7))
    with_, _ = augment_unlabeled(image, {}, full, rng(7))
    assert torch.equal(without["weak"].theta, with_["weak"].theta)
    assert not torch.equal(without["strong"].image, with_["strong"].image)


@pytest.mark.parametrize("name", ["mixing", "gain", "offset", "contrast", "gamma"])
def test_an_operation_draws_the_same_amounts_with_and_without_a_flip_before_it(name: str) -> None:
    image = torch.randn(4, 3, 24, 24)
    alone, _ = augment_unlabeled(image, {}, only(**{name: 0.4}), rng(7))
    after, _ = augment_unlabeled(image, {}, only(**{name: 0.4}, flip=True), rng(7))
    assert not torch.equal(after["weak"].theta, alone["weak"].theta)
    flipped = warp(alone["strong"].image, after["strong"].theta)
    torch.testing.assert_close(after["strong"].image, flipped, rtol=0, atol=1e-4)


def test_the_callers_generator_advances_alike_whatever_is_switched_on() -> None:
    states = []
    for config, space in ((OFF, (8, 8)), (AugmentConfig(), (16, 20)), (GEOMETRY, (4, 8, 8))):
        generator = rng(9)
        augment_labeled(torch.randn(2, 1, *space), blocks(space, 2), config, generator)
        states.append(generator.get_state())
    assert all(torch.equal(states[0], s) for s in states)


@pytest.mark.parametrize("space", SPACES)
def test_rotation_is_rigid_in_pixels(space: tuple[int, ...]) -> None:
    config = OFF.model_copy(update={"rotate": 40.0, "flip": True})
    theta = random_theta(torch.zeros(5, 1, *space), config, rng()).double()
    half = torch.tensor(space[::-1], dtype=torch.float64) / 2
    pixels = theta[:, :, :-1] * half[:, None] / half
    identity = torch.eye(len(space), dtype=torch.float64).expand(5, -1, -1)
    torch.testing.assert_close(pixels @ pixels.mT, identity, atol=1e-6, rtol=0)
    angles = torch.atan2(pixels[:, 1, 0].abs(), pixels[:, 1, 1].abs())
    assert angles.max() <= math.radians(40.0) + 1e-6
    assert angles.max() > math.radians(5)


def test_scale_and_translation_have_the_declared_extent() -> None:
    image = torch.zeros(200, 1, 10, 10)
    scale = random_theta(image, OFF.model_copy(update={"scale": 0.2}), rng())[:, 0, 0]
    assert 1 / 1.2 <= scale.min() < 0.86
    assert 1.2 < scale.max() <= 1 / 0.8 + 1e-6
    shift = random_theta(image, OFF.model_copy(update={"translate": 0.1}), rng())[:, :, 2]
    assert 0.18 < shift.abs().max() <= 0.2  # normalised coordinates span 2


def test_a_quarter_turn_moves_pixels_as_rot90_does() -> None:
    image = torch.arange(25.0).reshape(1, 1, 5, 5)
    theta = torch.tensor([[[0.0, -1.0, 0.0], [1.0, 0.0, 0.0]]])
    for mode in ("linear", "nearest"):
        moved = warp(image, theta, mode)  # type: ignore[arg-type]  # one of the modes
        expected = torch.rot90(image, 1, (2, 3))
        torch.testing.assert_close(moved, expected, atol=1e-4, rtol=0)


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32), space=st.sampled_from(SPACES))
def test_inverting_theta_twice_or_composing_gives_the_identity(
    seed: int, space: tuple[int, ...]
) -> None:
    theta = random_theta(torch.zeros(2, 1, *space), GEOMETRY, rng(seed))
    last = torch.zeros(2, 1, len(space) + 1)
    last[:, 0, -1] = 1
    product = torch.cat([theta, last], 1) @ torch.cat([invert_theta(theta), last], 1)
    eye = torch.eye(len(space) + 1).expand_as(product)
    torch.testing.assert_close(product, eye, atol=1e-5, rtol=0)
    torch.testing.assert_close(invert_theta(invert_theta(theta)), theta, atol=1e-4, rtol=1e-4)


def test_warping_there_and_back_restores_a_smooth_image() -> None:
    y, x = torch.meshgrid(torch.linspace(-1, 1, 48), torch.linspace(-1, 1, 64), indexing="ij")
    image = torch.exp(-3 * (x**2 + y**2))[None, None].repeat(4, 1, 1, 1)
    theta = random_theta(image, GEOMETRY, rng(4))
    back = warp(warp(image, theta), invert_theta(theta))
    centre = (..., slice(16, 32), slice(20, 44))
    assert (back - image)[centre].abs().max() < 0.02
    assert (warp(image, theta) - image)[centre].abs().max() > 0.05


def test_nearest_fills_zeros_and_linear_repeats_the_border() -> None:
    image = torch.ones(1, 1, 8, 8)
    theta = torch.tensor([[[1.0, 0.0, 1.0], [0.0, 1.0, 0.0]]])  # half the image is outside
    assert torch.equal(warp(image, theta, "linear"), image)
    assert warp(image, theta, "nearest").sum() == 32


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_the_same_seed_augments_alike_on_cpu_and_cuda() -> None:
    image = torch.randn(4, 3, 32, 32)
    config = AugmentConfig(probability=1.0)
    here, _ = augment_unlabeled(image, {}, config, rng(3))
    there, _ = augment_unlabeled(image.cuda(), {}, config, rng(3))
    assert torch.equal(here["strong"].theta, there["strong"].theta.cpu())
    far = (here["strong"].image - there["strong"].image.cpu()).abs()
    assert far.flatten().quantile(0.99) < 1e-3
