"""Prediction of whole cases at a site, in windows where the run has patches."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from fedssl.data.sizes import parse_size
from fedssl.inference import Predictor, predict_case
from fedssl.methods.base import LocalSetup
from fedssl.precision import autocast

__all__ = ["predict_whole"]


def predict_whole(setup: LocalSetup, predictor: Predictor, image: Tensor) -> list[Tensor]:
    """Return what a predictor says of a prepared image [C, *S], by the run's windows.

    Args:
        setup: the objective's surroundings.
        predictor: maps [B, C, *P] to one or more maps [B, M, *P] or coarser.
        image: as `TrainingData.image` returns it.

    Returns:
        One float32 tensor [M, *S] (or coarser) per map, computed in the run's `precision`.
    """

    def in_precision(x: Tensor) -> Sequence[Tensor]:
        with autocast(setup.run, setup.task, setup.device):
            return [out.float() for out in predictor(x)]

    return predict_case(
        in_precision,
        image,
        setup.task,
        patch=parse_size(setup.run.patch_size, setup.task, "patch-size"),
        stride=setup.model.stride,
        overlap=setup.run.evaluate.overlap,
        batch_size=setup.run.batch_size,
    )
