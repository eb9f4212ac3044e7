"""Dark surroundings are cut off, and masks go back to where they were."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedssl.config import RunConfig
from fedssl.data.cropping import cut, foreground_box, lengths, paste, whole
from fedssl.data.prepare import PreparePlan, cropped, prepare, prepare_case
from fedssl.data.source import CaseRef
from fedssl.errors import DataError
from fedssl.types import Case, Task

VOLUMES = Task("t", ("background", "organ"), mode="3d")
BOX = ((1, 4), (4, 10), (2, 14))


def head(noise: float = 0.0) -> np.ndarray:
    """Tissue in `BOX` of [1, 6, 12, 16], and air around it."""
    rng = np.random.default_rng(0)
    image = rng.uniform(0, noise, (1, 6, 12, 16)) if noise else np.zeros((1, 6, 12, 16))
    cut(image, BOX)[...] = rng.normal(100, 10, (1, *lengths(BOX)))
    return image.astype(np.float32)


def case(image: np.ndarray, label: np.ndarray | None = None) -> Case:
    return Case("c", "s", image, label, (3.0, 1.0, 0.5), "mm")


@pytest.mark.parametrize("noise", [0.0, 8.0])
def test_the_box_ends_where_the_air_begins_be_it_zero_or_noise(noise):
    assert foreground_box(head(noise)) == BOX


def test_without_dark_surroundings_nothing_is_cut():
    image = np.random.default_rng(0).normal(100, 10, (3, 8, 9)).astype(np.float32)
    assert foreground_box(image) == whole((8, 9)) == ((0, 8), (0, 9))
    assert foreground_box(np.full((1, 8, 9), 7.0, np.float32)) == whole((8, 9))


@given(st.data())
def test_what_is_cut_out_is_pasted_into_zeros(data):
    shape = data.draw(st.lists(st.integers(1, 5), min_size=2, max_size=3))
    starts = [data.draw(st.integers(0, n - 1)) for n in shape]
    box = tuple((a, data.draw(st.integers(a + 1, n))) for a, n in zip(starts, shape, strict=True))
    array = np.random.default_rng(0).integers(1, 9, shape).astype(np.uint8)
    back = paste(cut(array, box), box, shape)
    assert back.dtype == np.uint8
    np.testing.assert_array_equal(cut(back, box), cut(array, box))
    assert np.count_nonzero(back) == np.prod(lengths(box))


def test_cropping_comes_before_the_size_and_keeps_the_spacing():
    label = np.zeros((6, 12, 16), np.uint8)
    label[2, 5:8, 3:9] = 1
    whole_case = case(head(), label)
    plan = PreparePlan.from_run(RunConfig(crop=True), VOLUMES)
    box = plan.box_of(whole_case)
    image, mask, spacing = prepare_case(cropped(whole_case, box), plan)
    assert image.shape == (1, *lengths(BOX))
    assert spacing == (3.0, 1.0, 0.5)
    np.testing.assert_array_equal(paste(mask, box, label.shape), label)
    resampled = PreparePlan.from_run(RunConfig(crop=True, target_spacing="3,2,2"), VOLUMES)
    assert prepare_case(cropped(whole_case, box), resampled)[0].shape == (1, 3, 3, 3)


def test_a_mask_in_the_surroundings_is_refused_not_cut_off():
    label = np.zeros((6, 12, 16), np.uint8)
    label[2, 5, 5] = label[0, 0, :3] = 1
    with pytest.raises(DataError, match=r"'c' has 3 voxels of its mask in the dark .*crop = false"):
        cropped(case(head(), label), BOX)


class Heads:
    """One case, with or without a mask."""

    cases = (CaseRef("c", "s", has_label=False),)

    def read(self, index: int) -> Case:
        return case(head())

    def content_key(self) -> str:
        return "heads"


def test_prepared_cases_remember_the_box_and_another_plan_is_prepared_anew(tmp_path):
    plans = [PreparePlan.from_run(RunConfig(crop=crop), VOLUMES) for crop in (True, False)]
    for _ in range(2):  # the second time from the cache
        sites = [prepare(Heads(), plan, tmp_path) for plan in plans]
        assert [site.cases[0].box for site in sites] == [BOX, whole((6, 12, 16))]
        assert [site.image(0).shape for site in sites] == [(1, *lengths(BOX)), (1, 6, 12, 16)]
        assert all(site.cases[0].original_shape == (6, 12, 16) for site in sites)
