"""Resampling to a spacing, a window of intensities, a mode: what a plan asks of preparation."""

from __future__ import annotations

import numpy as np
import pytest

from fedssl.config import RunConfig
from fedssl.data.fitting import resampled_size
from fedssl.data.intensity import window
from fedssl.data.prepare import PreparePlan, prepare_case
from fedssl.data.sizes import parse_spacing, parse_window
from fedssl.errors import ConfigError, DataError
from fedssl.federation import in_mode
from fedssl.types import Case, Task

VOLUMES = Task("t", ("b", "f"), mode="3d")
SLICES = Task("t", ("b", "f"), mode="slices")


def volume(unit: str = "mm") -> Case:
    image = np.arange(4 * 6 * 8, dtype=np.float32).reshape(1, 4, 6, 8)
    return Case("c", "s", image, (image[0] > 90).astype(np.uint8), (3.0, 1.0, 0.5), unit)


@pytest.mark.parametrize(
    ("mode", "text", "size"),
    [
        ("2d", "", None),
        ("2d", "96", (96, 96)),
        ("2.5d", "96,128", (96, 128)),
        ("3d", "48", (48, 48, 48)),
        ("3d", "32,64,80", (32, 64, 80)),
    ],
)
def test_a_plan_takes_its_size_from_the_run(mode, text, size):
    task = Task("t", ("b", "f"), mode=mode)
    assert PreparePlan.from_run(RunConfig(image_size=text), task).image_size == size


def test_a_size_with_the_wrong_number_of_axes_is_refused():
    with pytest.raises(
        ConfigError, match=r"'image-size' = '96,96' has 2 sizes, but mode '3d' has 3"
    ):
        PreparePlan.from_run(RunConfig(image_size="96,96"), Task("t", ("b", "f"), mode="3d"))


def test_a_volume_gets_the_wished_spacing_on_every_axis():
    plan = PreparePlan.from_run(RunConfig(target_spacing="1.5,1,1"), VOLUMES)
    image, label, spacing = prepare_case(volume(), plan)
    assert image.shape == (1, 8, 6, 4)  # 4 x 3 mm, 6 x 1 mm, 8 x 0.5 mm
    assert label is not None
    assert label.shape == (8, 6, 4)
    assert spacing == (1.5, 1.0, 1.0)


def test_slices_are_resampled_within_their_plane_only():
    plan = PreparePlan.from_run(RunConfig(target_spacing="0.5"), SLICES)
    image, _, spacing = prepare_case(volume(), plan)
    assert image.shape == (1, 4, 12, 8)
    assert spacing == (3.0, 0.5, 0.5)


def test_an_unknown_spacing_cannot_be_resampled():
    plan = PreparePlan.from_run(RunConfig(target_spacing="1"), VOLUMES)
    with pytest.raises(DataError, match="Case 'c' has no spacing in mm"):
        prepare_case(volume("pixel"), plan)


def test_a_spacing_that_would_take_terabytes_is_refused_before_it_does():
    plan = PreparePlan.from_run(RunConfig(target_spacing="0.0001"), VOLUMES)
    with pytest.raises(DataError, match=r"Case 'c' has the spacing \[3.*x 60000 x 40000 voxels"):
        prepare_case(volume(), plan)


def test_no_axis_vanishes_and_lengths_are_rounded():
    assert resampled_size((1, 10, 10), (1.0, 1.0, 0.7), (5.0, 3.0, 1.0)) == (1, 3, 7)
    assert resampled_size((20, 10, 10), (9.0, 2.0, 2.0), (1.0, 4.0)) == (20, 5)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"target_spacing": "1", "image_size": "8"}, "both decide the size"),
        ({"target_spacing": "1,1"}, "has 2 spacings, but mode '3d' has 3"),
        ({"target_spacing": "0"}, "is a positive number"),
        ({"intensity_window": "0,1"}, "needs normalise = 'window'"),
        ({"normalise": "window"}, "needs the lowest and the highest"),
        ({"normalise": "window", "intensity_window": "3,3"}, "needs the lowest and the highest"),
    ],
)
def test_keys_that_contradict_each_other_are_named(keys, message):
    with pytest.raises(ConfigError, match=message):
        PreparePlan.from_run(RunConfig(**keys), VOLUMES)


def test_a_window_maps_its_ends_to_a_distribution_of_unit_deviation():
    result = window(np.array([-500.0, -125.0, 75.0, 275.0, 900.0]), -125, 275)
    root = 3**0.5
    np.testing.assert_allclose(result, [-root, -root, 0, root, root], atol=1e-6)
    even = window(np.linspace(-125, 275, 100_001), -125, 275)
    assert abs(even.mean()) < 1e-4
    assert even.std() == pytest.approx(1, abs=1e-4)
    assert result.dtype == np.float32


def test_a_window_is_the_same_for_every_image():
    run = RunConfig(normalise="window", intensity_window="0,200")
    image, _, _ = prepare_case(volume(), PreparePlan.from_run(run, VOLUMES))
    np.testing.assert_allclose(image, (volume().image / 100 - 1) * 3**0.5, rtol=1e-5)


def test_texts_become_numbers():
    assert parse_spacing("", VOLUMES) is None
    assert parse_spacing("0.8", SLICES) == (0.8, 0.8)
    assert parse_window("-125, 275") == (-125.0, 275.0)
    with pytest.raises(ValueError, match="expected numbers"):
        RunConfig(target_spacing="1mm")


def test_a_run_can_change_the_mode_of_volumes():
    stacked = in_mode(SLICES, "2.5d")
    assert (stacked.mode, stacked.channels) == ("2.5d", 3)
    back = in_mode(stacked, "3d")
    assert (back.mode, back.channels, back.spatial_dims) == ("3d", 1, 3)
    assert in_mode(SLICES, "") is SLICES
    with pytest.raises(ConfigError, match="pictures stay 2d"):
        in_mode(SLICES, "2d")
