"""What guides a method: the keys `quality.*`, which every run has, and the rounds they take."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from pydantic import Field

from fedssl.config import MethodConfig, RunConfig
from fedssl.functional.corruption import SCRIPT_PROBABILITIES, WEAK_PROBABILITY

__all__ = [
    "GuideConfig",
    "anchored",
    "base_run",
    "guide_config",
    "normalisation",
    "predictor_rounds",
]

SMALLEST_BATCH = 4
"""Smaller batches are not divided by the sum of their weights: it cancels what they say."""


class GuideConfig(MethodConfig):
    """Keys of the quality predictor and of what is done with its scores.

    Defaults are those of the released code (Abhishek and Hamarneh, arXiv 2606.01753); rounds,
    steps, the small backbone, `beta-qar` as one number and the weight of sites are ours.
    """

    guide: bool = Field(False, description="guide the run's method; method `quality` always is")
    mode: Literal["qw", "qar", "both"] = Field(
        "qw", description="weigh samples by quality, raise the student's quality, or both"
    )
    gamma: float = Field(2.0, ge=0, description="exponent of the quality in a sample's weight")
    threshold: float = Field(0.5, ge=0, le=1, description="samples of less quality weigh nothing")
    normalise: Literal["sum_w", "batch"] = Field(
        "sum_w", description="divide by the sum of weights, or by the number of samples"
    )
    beta_qar: float = Field(0.04, ge=0, description="QAR relative to the unsupervised terms")
    qar_mask: Literal["soft", "ste"] = Field(
        "soft", description="probabilities, or hard masks with a straight-through gradient"
    )
    weigh_sites: bool = Field(
        False, description="weigh unlabeled sites by samples times mean quality^gamma"
    )
    predictor_rounds: int = Field(-1, ge=-1, description="training the predictor; -1 is rounds / 6")
    predictor_steps: int = Field(-1, ge=-1, description="per round; -1 follows masks-per-image")
    masks_per_image: int = Field(50, ge=1, description="K, masks of each sample in a round")
    masks_per_step: int = Field(4, ge=1, description="masks of each image of a batch")
    predictor_lr: float = Field(3e-4, gt=0, description="AdamW, cosine over the predictor's rounds")
    predictor_weight_decay: float = Field(5e-4, ge=0)
    predictor_clip_norm: float = Field(1.0, ge=0, description="largest gradient norm, 0 = off")
    held_out: float = Field(
        0.2, gt=0, lt=1, description="share of a site's labeled subjects kept for the gate"
    )
    refresh_every: int = Field(0, ge=0, description="rounds between fine-tunings, 0 = frozen")
    backbone: Literal["small", "resnet18"] = "small"
    width: int = Field(32, ge=2, le=256, description="`small`: channels of its first convolution")
    dropout: float = Field(0.15, ge=0, lt=1)
    pretrained: str = Field("", description="safetensors file for resnet18, at the coordinator")
    gate_correlation: float = Field(0.7, ge=-1, le=1, description="must be exceeded")
    gate_blackout: float = Field(0.7, ge=-1, le=1.01, description="must not be reached")
    p_identity: float = Field(SCRIPT_PROBABILITIES["identity"], ge=0)
    p_single: float = Field(SCRIPT_PROBABILITIES["single"], ge=0)
    p_chained: float = Field(SCRIPT_PROBABILITIES["chained"], ge=0)
    p_cross_image: float = Field(SCRIPT_PROBABILITIES["cross_image"], ge=0)
    p_heavy: float = Field(SCRIPT_PROBABILITIES["heavy"], ge=0)
    p_catastrophic: float = Field(SCRIPT_PROBABILITIES["catastrophic"], ge=0)
    p_blob: float = Field(SCRIPT_PROBABILITIES["blob"], ge=0)
    p_weak: float = Field(
        WEAK_PROBABILITY, ge=0, le=1, description="masks that a snapshot of the warm-up predicts"
    )
    p_soft: float = Field(0.0, ge=0, le=1, description="masks that are softened, for QAR")

    @property
    def probabilities(self) -> Mapping[str, float]:
        """Weight of each category of masks (`p-identity` to `p-blob`)."""
        return {name: float(getattr(self, f"p_{name}")) for name in SCRIPT_PROBABILITIES}


def guide_config(run: RunConfig) -> GuideConfig:
    """Return the run's keys `quality.*`; the defaults, if the run was not parsed."""
    return run.quality if isinstance(run.quality, GuideConfig) else GuideConfig()


def predictor_rounds(run: RunConfig) -> int:
    """Return how many of the run's rounds train the predictor."""
    given = guide_config(run).predictor_rounds
    return max(1, run.rounds // 6) if given < 0 else given


def base_run(run: RunConfig) -> RunConfig:
    """Return the run as the guided method knows it: without the predictor's rounds."""
    return run.model_copy(update={"rounds": max(1, run.rounds - predictor_rounds(run))})


def anchored(run: RunConfig) -> bool:
    """Return whether a proximal term holds unlabeled sites to the received model."""
    return bool(getattr(run.method_config, "proximal", 0.0) > 0)


def normalisation(run: RunConfig) -> str:
    """Return what weighted terms are divided by: `sum_w`, or `batch`, also for tiny batches."""
    return "batch" if run.batch_size < SMALLEST_BATCH else guide_config(run).normalise
