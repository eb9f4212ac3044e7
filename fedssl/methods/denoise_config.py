"""Keys of `denoise`."""

from __future__ import annotations

import logging
from typing import Final, Literal

from pydantic import Field, field_validator

from fedssl.config import MethodConfig, ModelConfig
from fedssl.functional.views import View, views_of

__all__ = ["DenoiseConfig", "DenoiserConfig", "warn_of_thresholds"]

log = logging.getLogger("fedssl")

_HALF: Final = 0.5
"""Probability above which the network itself marks a pixel of one class."""


class DenoiserConfig(MethodConfig):
    """Keys of the denoiser; thresholds and passes are those of DPL's code."""

    denoising: Literal["none", "uncertainty", "prototype", "both"] = "both"
    prototypes: Literal["local", "labeled", "mix"] = Field(
        "local", description="where the class prototypes come from"
    )
    passes: int = Field(10, ge=1, description="stochastic forward passes per view of an image")
    scales: str = Field("1", description="sizes at which an image is looked at, e.g. '0.75,1,1.5'")
    flips: bool = Field(False, description="look at it mirrored too: at least four views")
    gamma: float = Field(0.75, ge=0.1, lt=1, description="probability of a foreground pixel")
    threshold: Literal["gamma", "share", "expected"] = Field(
        "gamma", description="or what gives the labeled sites' share of foreground, or the expected"
    )
    eta: float = Field(0.05, gt=0, description="largest trusted standard deviation")
    doubt: Literal["all", "passes"] = Field(
        "all", description="spread that eta limits: over all passes, or within those of each view"
    )
    temperature: float = Field(2.0, gt=0, description="of the logits, for the uncertainty only")
    mc_bn_mode: Literal["eval", "batch"] = "eval"
    largest_component: bool = False

    @field_validator("scales", mode="before")  # one size arrives as a number
    @classmethod
    def _sizes(cls, value: object) -> str:
        text = str(value)
        try:
            scales = _numbers(text)
        except ValueError:
            scales = ()
        if not scales or not all(0.25 <= scale <= 4 for scale in scales):
            raise ValueError("expected numbers from 0.25 to 4, e.g. '0.75,1,1.5'")
        return text

    @property
    def views(self) -> list[View]:
        """How an image is looked at, `passes` times each."""
        return views_of(_numbers(self.scales), flips=self.flips)

    @property
    def uses_prototypes(self) -> bool:
        """Whether the prototype test is on."""
        return self.denoising in ("prototype", "both")


class DenoiseConfig(DenoiserConfig):
    """Keys of `denoise`; where the paper is silent the choice is ours."""

    warmup_rounds: int = Field(-1, ge=-1, description="rounds of phase 1; -1 is rounds / 3")
    refresh: int = Field(-1, ge=-1, description="rounds between relabelings; -1 is rounds / 6")
    mu: float | str = Field(
        0.7, description="weight of the labeled group; 'auto' is its share of the samples"
    )
    mu_ramp: int = Field(0, ge=0, description="rounds over which mu falls from 1 to its value")
    source: Literal["global", "labeled_avg", "ensemble"] = Field(
        "global", description="which model makes the pseudo-labels"
    )
    view: Literal["weak", "strong"] = Field("strong", description="what the student sees")
    ce_weight: float = Field(1.0, ge=0, description="of the masked cross entropy")
    dice_weight: float = Field(0.0, ge=0, description="of the masked soft Dice")
    min_retained: float = Field(0.0, ge=0, lt=1, description="images below are not trained on")
    weigh_unlabeled_by: Literal["samples", "sites"] = Field(
        "samples", description="in their average; sites: each counts the same"
    )
    weight_by_retained: bool = Field(
        False, description="weigh unlabeled sites by their retained fraction too"
    )

    @field_validator("mu", mode="before")
    @classmethod
    def _auto_or_share(cls, mu: object) -> object:
        if mu == "auto" or (isinstance(mu, int | float) and 0 <= mu <= 1):
            return mu
        raise ValueError("expected 'auto' or a number in [0, 1]")


def warn_of_thresholds(config: DenoiserConfig, model: ModelConfig) -> None:
    """Log a warning where the denoiser's thresholds do something else than one would expect."""
    _warn_if_vacuous(config, model)
    _warn_if_shrinking(config)


def _warn_if_vacuous(config: DenoiserConfig, model: ModelConfig) -> None:
    """Log a warning where passes cannot differ, so that every pixel passes the uncertainty test."""
    certain = config.passes == 1 or model.dropout_bottleneck == model.dropout_head == 0
    certain = certain and (len(config.views) == 1 or config.doubt == "passes")
    if certain and config.denoising in ("uncertainty", "both"):
        log.warning(
            "The uncertainty test of the denoiser trusts every pixel: it needs dropout "
            "(model.dropout-bottleneck or -head) and 'passes' > 1 (given %d), or several 'scales' "
            "or 'flips' with doubt = 'all'.",
            config.passes,
        )


def _warn_if_shrinking(config: DenoiserConfig) -> None:
    """Log a warning where doubtful pixels are taught as background, anew at every relabeling."""
    if config.denoising == "none" and config.threshold == "gamma" and config.gamma > _HALF:
        log.warning(
            "denoise.gamma = %g without a denoiser teaches pixels of probability 0.5 to %g as "
            "background, so masks shrink with every relabeling. Set denoise.gamma = 0.5, "
            "denoise.threshold = 'expected', or denoise.denoising = 'uncertainty'.",
            config.gamma,
            config.gamma,
        )


def _numbers(text: str) -> tuple[float, ...]:
    return tuple(float(part) for part in text.split(","))
