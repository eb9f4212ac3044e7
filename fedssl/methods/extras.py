"""What `denoise` sends besides weights, as named arrays: teachers and prototypes down, sums up."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from fedssl.config import RunConfig
from fedssl.functional import denoising as dn
from fedssl.methods.base import ArraySpec, Payload
from fedssl.types import Arrays, Task

__all__ = [
    "pack_teachers",
    "payload",
    "pooled_prototypes",
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


def _prototype_specs(classes: int) -> tuple[dict[str, ArraySpec], dict[str, ArraySpec]]:
    """Return the declarations of feature sums (up) and prototypes (down)."""
    vectors = ArraySpec((classes, None), torch.float64)
    weights = ArraySpec((classes,), torch.float64)
    up = {f"{side}_sum": vectors for side in ("object", "background")}
    up |= {f"{side}_weight": weights for side in ("object", "background")}
    down = {f"prototype_{side}": vectors for side in ("object", "background")}
    return up, {**down, "prototype_valid": ArraySpec((classes,), torch.bool)}


def payload(run: RunConfig, task: Task, weights: Arrays) -> Payload:
    """Return the extras that travel: teachers and prototypes down, feature sums up."""
    teachers = {
        f"teacher.*/{name}": ArraySpec(tuple(value.shape), value.dtype)
        for name, value in weights.items()
    }
    sums, prototypes = _prototype_specs(task.num_classes - 1)
    return Payload(
        down={"train": {**teachers, **prototypes}, "prototypes": teachers},
        up={"prototypes": sums},
    )
