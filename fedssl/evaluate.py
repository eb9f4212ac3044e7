"""Per-class quality of the global model at one site. Cases stay; sums and counts leave."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from fedssl.functional.labels import decode, foreground_probabilities
from fedssl.functional.metrics import dice, surface_distances
from fedssl.inference import predict_case
from fedssl.models import SegmentationModel
from fedssl.types import Output, Task

__all__ = [
    "CaseScore",
    "add_sums",
    "class_masks",
    "in_task",
    "means",
    "predict_label",
    "pseudo_label_sums",
    "score_case",
    "summed",
]


@dataclass(frozen=True, slots=True)
class CaseScore:
    """Scores of one case; kept at the site.

    Args:
        name: case name.
        dice: foreground class -> Dice in [0, 1].
        hd95: foreground class -> 95th percentile Hausdorff distance, {} if not asked for.
        assd: foreground class -> average symmetric surface distance, {} if not asked for.
        unit: `mm` or `pixel`, of the distances.
    """

    name: str
    dice: dict[str, float]
    hd95: dict[str, float]
    assd: dict[str, float]
    unit: str


def predict_label(
    model: SegmentationModel,
    image: Tensor,
    task: Task,
    *,
    patch: Sequence[int] | None,
    overlap: float = 0.5,
    batch_size: int = 8,
) -> Tensor:
    """Return the label map [*S] int64 of a prepared case [C, *S]; the model is put in eval mode."""
    model.eval()

    def probabilities(x: Tensor) -> list[Tensor]:
        return [foreground_probabilities(model(x).logits, task.output)]

    (prob,) = predict_case(
        probabilities,
        image,
        task,
        patch=patch,
        stride=model.stride,
        overlap=overlap,
        batch_size=batch_size,
    )
    return decode(prob[None], task.output)[0]


def class_masks(label: np.ndarray, task: Task) -> dict[str, np.ndarray]:
    """Return one boolean mask per foreground class; a nested class includes those inside it."""
    if task.output == Output.NESTED:
        return {name: label >= i for i, name in enumerate(task.classes) if i > 0}
    return {name: label == i for i, name in enumerate(task.classes) if i > 0}


def score_case(
    name: str,
    predicted: np.ndarray,
    truth: np.ndarray,
    task: Task,
    *,
    spacing: Sequence[float],
    unit: str,
    surface: bool,
) -> CaseScore:
    """Compare two label maps [*S] class by class.

    Empty masks follow `functional.metrics`: both empty scores Dice 1 and distance 0; one empty
    scores Dice 0 and the image's diagonal.
    """
    ours, theirs = class_masks(predicted, task), class_masks(truth, task)
    dices = {c: dice(ours[c], theirs[c]) for c in task.foreground}
    surfaces = (
        {c: surface_distances(ours[c], theirs[c], spacing) for c in task.foreground}
        if surface
        else {}
    )
    return CaseScore(
        name,
        dices,
        {c: s.hd95 for c, s in surfaces.items()},
        {c: s.assd for c, s in surfaces.items()},
        unit,
    )


def summed(scores: Iterable[CaseScore]) -> dict[str, float]:
    """Return `dice/<class>/sum`, `dice/<class>/count` and so on: what may leave the site."""
    totals: dict[str, float] = defaultdict(float)
    for score in scores:
        for metric in ("dice", "hd95", "assd"):
            for name, value in getattr(score, metric).items():
                totals[f"{metric}/{name}/sum"] += value
                totals[f"{metric}/{name}/count"] += 1
    return dict(totals)


def in_task(
    pseudo: np.ndarray, trust: np.ndarray, trained: Task, task: Task
) -> tuple[np.ndarray, np.ndarray]:
    """Return pseudo-label and trust [F, *S] in the encoding of `task`.

    A softmax method keeps its maps by label value; under a nested task a class includes those
    inside it, and a pixel is trusted for a class if it is for all.
    """
    if trained.output == task.output:
        return pseudo, trust
    nested = np.logical_or.accumulate(np.asarray(pseudo)[::-1].astype(bool))[::-1]
    return nested, np.broadcast_to(np.asarray(trust).astype(bool).all(0), nested.shape)


def pseudo_label_sums(
    pseudo: np.ndarray, trust: np.ndarray, truth: np.ndarray, task: Task
) -> dict[str, float]:
    """Compare stored pseudo-labels with a hidden truth; a diagnostic, never used in training.

    Args:
        pseudo: [F, *S] binary pseudo-label.
        trust: [F, *S] binary trust mask.
        truth: [*S] label map.

    Returns:
        Sums for Dice, for the precision of the raw and of the trusted foreground pixels, and for
        the share of pixels whose pseudo-label is right, raw and trusted.
    """
    totals: dict[str, float] = {}
    for index, (name, mask) in enumerate(class_masks(truth, task).items()):
        label, kept = pseudo[index].astype(bool), trust[index].astype(bool)
        right = label == mask
        totals |= {
            f"pseudo_dice/{name}/sum": dice(label, mask),
            f"pseudo_dice/{name}/count": 1.0,
            f"pseudo_precision/{name}/sum": float((label & mask).sum()),
            f"pseudo_precision/{name}/count": float(label.sum()),
            f"trusted_precision/{name}/sum": float((label & mask & kept).sum()),
            f"trusted_precision/{name}/count": float((label & kept).sum()),
            f"pseudo_accuracy/{name}/sum": float(right.sum()),
            f"pseudo_accuracy/{name}/count": float(right.size),
            f"trusted_accuracy/{name}/sum": float((right & kept).sum()),
            f"trusted_accuracy/{name}/count": float(kept.sum()),
        }
    return totals


def add_sums(parts: Iterable[Mapping[str, float]]) -> dict[str, float]:
    """Add sums key by key, in the order given."""
    totals: dict[str, float] = defaultdict(float)
    for part in parts:
        for key, value in part.items():
            totals[key] += value
    return dict(totals)


def means(sums: Mapping[str, float]) -> dict[str, float]:
    """Turn `x/<class>/sum` and `x/<class>/count` into `x/<class>`; empty counts are left out."""
    return {
        key.removesuffix("/sum"): value / sums[key.removesuffix("sum") + "count"]
        for key, value in sums.items()
        if key.endswith("/sum") and sums[key.removesuffix("sum") + "count"] > 0
    }
