"""What `denoise` sends besides weights, as named arrays: teachers, prototypes, sums and counts."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fedssl.config import RunConfig
from fedssl.functional import denoising as dn
from fedssl.functional.labels import foreground_targets
from fedssl.functional.shares import foreground_counts
from fedssl.methods.base import ArraySpec, Payload, TrainingData
from fedssl.methods.payload import EVERYONE
from fedssl.types import Arrays, Task

__all__ = [
    "foreground_of",
    "pack_teachers",
    "payload",
    "pooled_prototypes",
    "pooled_share",
    "received_prototypes",
    "sums_to_arrays",
    "unpack_teachers",
]


def pack_teachers(teachers: Sequence[Arrays]) -> Arrays:
    """Return the weights of several networks under the names `teacher.<index>/<name>`."""
    return {
        f"teacher.{index}/{name}": value
        for index, teacher in enumerate(teachers)
        for name, value in teacher.items()
    }


def unpack_teachers(knowledge: Arrays) -> list[Arrays]:
    """Return the weights to label with, in the order in which they were numbered."""
    found: dict[int, Arrays] = {}
    for key, value in knowledge.items():
        head, slash, name = key.partition("/")
        if slash and head.startswith("teacher."):
            found.setdefault(int(head.removeprefix("teacher.")), {})[name] = value
    return [found[index] for index in sorted(found)]


def sums_to_arrays(sums: dn.PrototypeSums) -> Arrays:
    """Return a labeled site's feature sums as the extras that it uploads."""
    return {
        "object_sum": sums.object_sum,
        "object_weight": sums.object_weight,
        "background_sum": sums.background_sum,
        "background_weight": sums.background_weight,
    }


def pooled_prototypes(uploads: Sequence[Arrays]) -> Arrays:
    """Return the prototypes over all labeled sites, as extras to download.

    Sums and weights add up in the order given; one vector per class and side travels on.
    """
    sums = [
        dn.PrototypeSums(
            k["object_sum"], k["object_weight"], k["background_sum"], k["background_weight"]
        )
        for k in uploads
    ]
    total = sums[0]
    for other in sums[1:]:
        total = total + other
    pooled = dn.prototypes(total)
    return {
        "prototype_object": pooled.object,
        "prototype_background": pooled.background,
        "prototype_valid": pooled.valid,
    }


def received_prototypes(knowledge: Arrays) -> dn.Prototypes | None:
    """Return the prototypes in a download, or None if it carries none."""
    if "prototype_object" not in knowledge:
        return None
    return dn.Prototypes(
        knowledge["prototype_object"],
        knowledge["prototype_background"],
        knowledge["prototype_valid"],
    )


def foreground_of(data: TrainingData, task: Task) -> Tensor:
    """Return the foreground pixels per class under a site's masks, and last all pixels [F + 1]."""
    classes = task.num_classes - 1
    masks = (foreground_targets(data.label(c)[None], classes, task.output) for c in data.labeled)
    return torch.stack([foreground_counts(mask[0]) for mask in masks]).sum(0)


def pooled_share(counts: Arrays) -> Arrays:
    """Return the share of foreground per class over all sites as an extra; {} without counts."""
    if not counts:
        return {}
    total = torch.stack([counts[site] for site in sorted(counts)]).sum(0)
    return {"foreground_share": total[:-1] / total[-1].clamp_min(1)}


def _prototype_specs(classes: int, width: int) -> tuple[dict[str, ArraySpec], dict[str, ArraySpec]]:
    """Return the declarations of feature sums (up) and prototypes (down)."""
    vectors = ArraySpec((classes, width), torch.float64, EVERYONE)
    weights = ArraySpec((classes,), torch.float64, EVERYONE)
    up = {f"{side}_sum": vectors for side in ("object", "background")}
    up |= {f"{side}_weight": weights for side in ("object", "background")}
    down = {f"prototype_{side}": vectors for side in ("object", "background")}
    return up, {**down, "prototype_valid": ArraySpec((classes,), torch.bool)}


def payload(run: RunConfig, task: Task, weights: Arrays) -> Payload:
    """Return the extras that travel: teachers, prototypes and shares down, sums and counts up."""
    teachers = {
        f"teacher.*/{name}": ArraySpec(tuple(value.shape), value.dtype)
        for name, value in weights.items()
    }
    classes = task.num_classes - 1
    sums, prototypes = _prototype_specs(classes, run.model.width)
    share = {"foreground_share": ArraySpec((classes,), torch.float64)}
    counts = {"foreground_count": ArraySpec((classes + 1,), torch.float64)}
    return Payload(
        down={"train": {**teachers, **prototypes, **share}, "prototypes": teachers},
        up={"prototypes": sums, "train": counts},
    )
