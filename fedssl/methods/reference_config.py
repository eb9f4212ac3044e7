"""Keys of `reference`."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from fedssl.config import RunConfig
from fedssl.errors import ConfigError
from fedssl.methods.retrieval import RetrievalConfig
from fedssl.methods.ssl_rule import SemiSupervisedConfig, check_warmup

__all__ = ["ReferenceConfig", "check"]


class ReferenceConfig(SemiSupervisedConfig, RetrievalConfig):
    """Keys of `reference`; the figure fixes the structure, all values are ours."""

    protocol: Literal["stale", "sync"] = Field(
        "stale", description="banks of the last round, or of this one by a stage of their own"
    )
    mixed_from: Literal["pool", "bank", "both"] = Field(
        "both", description="references at mixed sites; of both, the label with more weight"
    )
    cases_per_round: int = Field(
        0, ge=0, description="unlabeled cases that a round labels and draws from; 0: all"
    )
    lam_ref: float = Field(1.0, ge=0, description="weight of the loss on reference labels")
    lam_con: float = Field(1.0, ge=0, description="weight of the strong view's consistency")
    con_threshold: float = Field(
        0.0, ge=0, le=1, description="consistency counts from this probability on"
    )
    divide_by: Literal["pixels", "weights"] = Field(
        "pixels", description="pixels: little confidence means a small loss"
    )
    dice_weight: float = Field(1.0, ge=0, description="Dice beside the supervised cross entropy")
    weight: float = Field(1.0, ge=0, description="common factor of both lambdas")
    weight_by_trusted: bool = Field(
        True, description="weigh unlabeled sites by samples times their mean label weight"
    )
    proximal: float = Field(1e-3, ge=0, description="FedProx mu at unlabeled sites")


def check(run: RunConfig) -> None:
    """Raise `ConfigError` where no round could use a bank."""
    check_warmup(run)
    config = run.method_config
    if isinstance(config, ReferenceConfig) and config.protocol == "stale" and run.rounds == 1:
        raise ConfigError(
            "Key 'reference.protocol' = 'stale' needs banks of the round before, but 'rounds' = 1."
            " Raise rounds, or set reference.protocol = 'sync'."
        )
