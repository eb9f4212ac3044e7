"""Scores per class, and what of them leaves a site."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from fedssl.evaluate import (
    CaseScore,
    add_sums,
    class_masks,
    means,
    predict_label,
    pseudo_label_sums,
    score_case,
    summed,
)
from fedssl.models import SegmentationModel
from fedssl.types import Output, SegOutput, Task

CLASSES = ("background", "disc", "cup")
EXCLUSIVE = Task("t", CLASSES)
NESTED = Task("t", CLASSES, output=Output.NESTED)
LABEL = np.array([[0, 1, 1, 2], [0, 1, 2, 2]], dtype=np.uint8)


def test_a_nested_class_includes_those_inside_it():
    assert class_masks(LABEL, EXCLUSIVE)["disc"].sum() == 3
    assert class_masks(LABEL, NESTED)["disc"].sum() == 6
    assert class_masks(LABEL, EXCLUSIVE)["cup"].sum() == class_masks(LABEL, NESTED)["cup"].sum()


def score(predicted: np.ndarray, task: Task = EXCLUSIVE, *, surface: bool = False) -> CaseScore:
    return score_case(
        "case", predicted, LABEL, task, spacing=(2.0, 0.5), unit="mm", surface=surface
    )


def test_dice_is_counted_class_by_class():
    predicted = LABEL.copy()
    predicted[0, 1] = 0
    predicted[0, 3] = 1
    # disc: 2 of 3 found, 3 claimed; cup: 2 of 3 found, 2 claimed
    assert score(predicted).dice == {"disc": pytest.approx(4 / 6), "cup": pytest.approx(4 / 5)}
    # nested: disc has 6 pixels, 5 of them found
    assert score(predicted, NESTED).dice["disc"] == pytest.approx(10 / 11)


def test_distances_follow_the_spacing_and_are_there_only_if_asked_for():
    assert score(LABEL).hd95 == score(LABEL).assd == {}
    assert score(LABEL, surface=True).hd95 == {"disc": 0.0, "cup": 0.0}
    nothing = score(np.zeros_like(LABEL), surface=True)
    diagonal = np.hypot(2 * 2.0, 4 * 0.5)
    assert nothing.assd == {"disc": pytest.approx(diagonal), "cup": pytest.approx(diagonal)}


def test_only_sums_and_counts_leave_and_the_mean_comes_back():
    scores = [
        CaseScore("a", {"x": 0.5}, {"x": 4.0}, {}, "mm"),
        CaseScore("b", {"x": 1.0}, {}, {}, ""),
    ]
    sums = summed(scores)
    assert sums == {
        "dice/x/sum": 1.5,
        "dice/x/count": 2.0,
        "hd95/x/sum": 4.0,
        "hd95/x/count": 1.0,
    }
    assert means(sums) == {"dice/x": 0.75, "hd95/x": 4.0}
    assert means({"dice/x/sum": 0.0, "dice/x/count": 0.0, "cases": 0.0}) == {}
    assert summed([]) == {}


def test_sums_add_up_key_by_key():
    assert add_sums([{"a": 1.0, "b": 2.0}, {"a": 3.0}]) == {"a": 4.0, "b": 2.0}


def test_a_pseudo_label_is_compared_raw_and_where_it_is_trusted():
    truth = np.array([[0, 1, 1, 1]])
    pseudo = np.array([[[1, 1, 1, 0]]])
    trust = np.array([[[0, 1, 1, 1]]])
    task = Task("t", ("background", "tumor"))
    found = means(pseudo_label_sums(pseudo, trust, truth, task))
    assert found == {
        "pseudo_dice/tumor": pytest.approx(4 / 6),
        "pseudo_precision/tumor": pytest.approx(2 / 3),
        "trusted_precision/tumor": 1.0,
        "pseudo_accuracy/tumor": 0.5,
        "trusted_accuracy/tumor": pytest.approx(2 / 3),
    }


def test_where_nothing_is_trusted_there_is_no_trusted_score():
    truth, task = np.array([[0, 1]]), Task("t", ("background", "tumor"))
    found = means(pseudo_label_sums(np.array([[[0, 1]]]), np.zeros((1, 1, 2)), truth, task))
    assert "trusted_precision/tumor" not in found
    assert "trusted_accuracy/tumor" not in found
    assert found["pseudo_accuracy/tumor"] == 1.0


class Threshold(SegmentationModel):
    """Its logits are the image; inputs must be multiples of 4."""

    feature_channels, stride = 1, 4

    def __init__(self) -> None:
        super().__init__()
        self.dropout = nn.Dropout(0.9)

    def encode(self, x: Tensor) -> Sequence[Tensor]:
        return [x]

    def decode(self, encoded: Sequence[Tensor]) -> SegOutput:
        return SegOutput(self.dropout(encoded[0]), encoded[0])


@pytest.mark.parametrize("patch", [None, (4, 4)])
def test_a_case_is_labeled_at_its_own_size_without_dropout(patch: tuple[int, int] | None):
    model = Threshold().train()
    image = torch.full((2, 5, 7), -5.0)
    image[0, :, 2:] = 5.0  # disc
    image[1, 1, :4] = 5.0  # cup, two pixels of it outside the disc
    label = predict_label(model, image, NESTED, patch=patch, overlap=0.0)
    assert not model.training
    expected = torch.zeros(5, 7, dtype=torch.int64)
    expected[:, 2:] = 1
    expected[1, 2:4] = 2
    assert torch.equal(label, expected)
