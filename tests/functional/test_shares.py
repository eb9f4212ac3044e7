"""Thresholds by the share of foreground."""

from __future__ import annotations

import pytest
import torch

from fedssl.functional.shares import foreground_counts, probability_counts, share_threshold


def test_counts_are_foreground_pixels_per_class_and_all_pixels_last():
    mask = torch.zeros(2, 4, 5, dtype=torch.uint8)
    mask[0, :2] = 1
    mask[1, 0, 0] = 1
    assert foreground_counts(mask).tolist() == [10.0, 1.0, 20.0]


@pytest.mark.parametrize("share", [0.1, 0.25, 0.5])
def test_at_most_the_share_of_pixels_lies_above_the_threshold_and_no_lower_one_does(share):
    prob = torch.linspace(0, 1, 10_001)[None].reshape(1, 73, 137)
    threshold = share_threshold(probability_counts(prob), torch.tensor([share]))
    assert (prob > threshold).double().mean() == pytest.approx(share, abs=0.0011)
    assert threshold.item() == pytest.approx(1 - share, abs=0.0011)


def test_images_add_up_and_each_class_has_its_own_threshold():
    first, second = torch.rand(2, 30, 40), torch.rand(2, 20, 20) ** 3
    counts = probability_counts(first) + probability_counts(second)
    found = share_threshold(counts, torch.tensor([0.3, 0.15]))
    together = torch.cat([first.flatten(1), second.flatten(1)], dim=1)
    above = (together > found[:, None]).double().mean(1)
    assert above.tolist() == pytest.approx([0.3, 0.15], abs=0.01)
    assert found[0] < found[1]


def test_a_threshold_stays_between_a_tenth_and_nine_tenths():
    sure = probability_counts(torch.ones(1, 8, 8))
    assert share_threshold(sure, torch.tensor([0.2])).item() == 0.9
    blank = probability_counts(torch.zeros(1, 8, 8))
    assert share_threshold(blank, torch.tensor([0.2])).item() == 0.1
