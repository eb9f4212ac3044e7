"""Keys of `denoise`."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator

from fedssl.methods.relabel import DenoiserConfig

__all__ = ["DenoiseConfig"]


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
    dice_weight: float = Field(0.0, ge=0, description="masked soft Dice beside the masked CE")
    min_retained: float = Field(0.0, ge=0, lt=1, description="images below are not trained on")
    weight_by_retained: bool = Field(
        False, description="weigh unlabeled sites by samples times retained fraction"
    )

    @field_validator("mu", mode="before")
    @classmethod
    def _auto_or_share(cls, mu: object) -> object:
        if mu == "auto" or (isinstance(mu, int | float) and 0 <= mu <= 1):
            return mu
        raise ValueError("expected 'auto' or a number in [0, 1]")
