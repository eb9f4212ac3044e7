"""Draws masks of varying quality, with their Dice score, from one mask."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from fedssl.functional.corruption.masks import Mask, as_mask, dice
from fedssl.functional.corruption.registry import (
    BLOBS,
    CATASTROPHIC,
    CHAINED,
    HEAVY,
    OPERATIONS,
    SINGLE,
)

__all__ = [
    "CLASS_PROBABILITIES",
    "SCRIPT_PROBABILITIES",
    "WEAK_PROBABILITY",
    "Corrupted",
    "CorruptedClasses",
    "corrupt",
    "corrupt_classes",
]

SCRIPT_PROBABILITIES: Mapping[str, float] = {
    "identity": 0.20,
    "single": 0.28,
    "chained": 0.18,
    "cross_image": 0.10,
    "heavy": 0.12,
    "catastrophic": 0.05,
    "blob": 0.07,
}
"""Categories as the released training script sets them."""

CLASS_PROBABILITIES: Mapping[str, float] = {
    **SCRIPT_PROBABILITIES,
    "identity": 0.12,
    "cross_image": 0.18,
}
"""Categories as the released generator sets them by default."""

WEAK_PROBABILITY = 0.05
"""How often a weak model's prediction is used, where there is one."""

_NEAREST_SHARE = 0.2
_ONE_OPERATION = {"single": SINGLE, "heavy": HEAVY, "catastrophic": CATASTROPHIC, "blob": BLOBS}


@dataclass(frozen=True, slots=True)
class Corrupted:
    """A mask of known quality.

    Args:
        mask: [H, W] uint8 in {0, 1}.
        dice: its overlap with the original in [0, 1]; 1 if both are empty.
        category: `weak`, or a key of the probabilities.
        operation: names of the operations applied, joined by `+`; else the category.
    """

    mask: Mask
    dice: float
    category: str
    operation: str


@dataclass(frozen=True, slots=True)
class CorruptedClasses:
    """Masks of several classes, of known quality.

    Args:
        masks: [F, H, W] uint8 in {0, 1}.
        dice: overlap of each class with its original.
        categories: category of each class; `kept` where it was left as it was.
        swapped: the two classes whose masks changed places, before anything else.
    """

    masks: Mask
    dice: tuple[float, ...]
    categories: tuple[str, ...]
    swapped: tuple[int, int] | None


def corrupt(
    mask: Mask,
    rng: np.random.Generator,
    *,
    bank: Sequence[Mask] = (),
    weak: Sequence[Mask] = (),
    probabilities: Mapping[str, float] | None = None,
) -> Corrupted:
    """Return one mask of random quality, to train a quality predictor on.

    After Abhishek and Hamarneh, "Quality-guided semi-supervised learning for medical image
    segmentation" (arXiv 2606.01753, 2026): a category is drawn, then what it contains. Warps
    sample the nearest pixel, and all randomness comes from `rng`.

    Args:
        mask: [H, W]; nonzero on the object.
        rng: the only source of randomness.
        bank: masks of other images, same shape, for `cross_image`: one of the fifth that is
            nearest in area. Without them that category is drawn again.
        weak: predictions of weak models for this image; one is used with the probability `weak`.
        probabilities: weight of each category, 0 where left out; `weak` (0.05 unless given) is
            drawn before the others. None: as in the released training script.

    Raises:
        ValueError: an unknown category, a negative weight, nothing left to draw from, or masks of
            different shapes.
    """
    mask = _binary(mask, None)
    weak_chance = (probabilities or {}).get("weak", WEAK_PROBABILITY)
    always_weak = len(weak) > 0 and weak_chance >= 1
    chances = _chances(probabilities, len(bank) > 0, required=not always_weak)
    if len(weak) > 0 and rng.random() < weak_chance:
        guess = _binary(weak[int(rng.integers(len(weak)))], mask)
        return Corrupted(guess, dice(guess, mask), "weak", "weak")
    category = _draw(chances, rng)
    if category == "cross_image":
        other, names = _binary(_similar(mask, bank, rng), mask), [category]
    else:
        names = _operations(category, rng)
        other = mask.copy()
        for name in names:
            other = OPERATIONS[name](other, rng)
    return Corrupted(other, dice(other, mask), category, "+".join(names) or category)


def corrupt_classes(
    masks: Mask,
    rng: np.random.Generator,
    *,
    bank: Sequence[Mask] = (),
    weak: Sequence[Mask] = (),
    probabilities: Mapping[str, float] | None = None,
    class_probability: float = 0.7,
    swap_probability: float = 0.1,
) -> CorruptedClasses:
    """Corrupt the foreground classes of one image independently; our extension to many classes.

    Args:
        masks: [F, H, W]; nonzero on each class. One class is the same as `corrupt`.
        rng: the only source of randomness.
        bank: masks [F, H, W] of other images.
        weak: predictions [F, H, W] of weak models for this image.
        probabilities: as for `corrupt`.
        class_probability: how often a class is corrupted, if there are several.
        swap_probability: how often two classes change places.
    """
    count = len(masks)
    order, swapped = np.arange(count), None
    if count > 1 and rng.random() < swap_probability:
        a, b = (int(i) for i in rng.choice(count, 2, replace=False))
        order[[a, b]], swapped = order[[b, a]], (a, b)
    results = []
    for f in range(count):
        source = _binary(masks[order[f]], None)
        if count > 1 and rng.random() >= class_probability:
            results.append(Corrupted(source, 1.0, "kept", "kept"))
            continue
        own_bank, own_weak = [m[f] for m in bank], [m[f] for m in weak]
        results.append(
            corrupt(source, rng, bank=own_bank, weak=own_weak, probabilities=probabilities)
        )
    out = np.stack([result.mask for result in results])
    scores = tuple(dice(o, _binary(m, None)) for o, m in zip(out, masks, strict=True))
    return CorruptedClasses(out, scores, tuple(r.category for r in results), swapped)


def _operations(category: str, rng: np.random.Generator) -> list[str]:
    if category == "identity":
        return []
    if category == "chained":
        weights = np.array(list(CHAINED.values()))
        count = int(rng.integers(2, 4))
        drawn = rng.choice(len(CHAINED), count, replace=False, p=weights / weights.sum())
        return [list(CHAINED)[i] for i in drawn]
    return [_draw(_ONE_OPERATION[category], rng)]


def _draw(weights: Mapping[str, float], rng: np.random.Generator) -> str:
    values = np.array(list(weights.values()))
    return list(weights)[int(rng.choice(len(values), p=values / values.sum()))]


def _similar(mask: Mask, bank: Sequence[Mask], rng: np.random.Generator) -> Mask:
    areas = np.array([np.count_nonzero(other) for other in bank])
    distance = np.abs(areas - np.count_nonzero(mask))
    nearest = np.argsort(distance, kind="stable")[: max(1, round(_NEAREST_SHARE * len(bank)))]
    return bank[int(rng.choice(nearest))]


def _chances(
    probabilities: Mapping[str, float] | None, has_bank: bool, required: bool
) -> dict[str, float]:
    given = dict(SCRIPT_PROBABILITIES if probabilities is None else probabilities)
    unknown = given.keys() - {"weak", *SCRIPT_PROBABILITIES}
    if unknown or any(value < 0 for value in given.values()):
        msg = f"categories {given}: choose weights >= 0 for weak, {', '.join(SCRIPT_PROBABILITIES)}"
        raise ValueError(msg)
    given.pop("weak", None)
    if not has_bank:
        # Drawing again until another category comes is drawing among the others.
        given.pop("cross_image", None)
    if required and sum(given.values()) <= 0:
        raise ValueError(
            "no category left to draw: all have weight 0 (cross_image counts where `bank` holds "
            "masks of other images, weak where `weak` holds predictions)"
        )
    return given


def _binary(mask: Mask, like: Mask | None) -> Mask:
    if mask.ndim != 2 or (like is not None and mask.shape != like.shape):
        expected = "[H, W]" if like is None else str(like.shape)
        raise ValueError(f"mask has shape {mask.shape}, expected {expected}")
    return as_mask(mask)
