"""An optimizer at the coordinator, for any rule that averages."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from pydantic import Field
from torch import Tensor

from fedssl.config import MethodConfig, RunConfig
from fedssl.errors import ConfigError
from fedssl.functional.server_optimizer import ServerKind, ServerState, server_update
from fedssl.models import build_unet
from fedssl.types import Arrays, Task

__all__ = ["ServerOptimizer", "ServerOptimizerConfig", "check_server_optimizer"]

ADAPTIVE_LR = 0.01


class ServerOptimizerConfig(MethodConfig):
    """Keys of the coordinator's optimizer; beta2 and tau are those of the paper's experiments."""

    server_optimizer: ServerKind = Field(
        "none", description="what is done with the mean change; none: it is added"
    )
    server_lr: float = Field(-1.0, ge=-1, description="-1 is 1 for momentum, else 0.01")
    server_beta1: float = Field(0.9, ge=0, lt=1, description="decay of the first moment")
    server_beta2: float = Field(0.99, ge=0, lt=1, description="decay of the second moment")
    server_tau: float = Field(1e-3, gt=0, description="added to the root of the second moment")


def check_server_optimizer(run: RunConfig) -> None:
    """Raise `ConfigError` for keys that have no effect with the chosen optimizer."""
    config = run.method_config
    assert isinstance(config, ServerOptimizerConfig)
    idle = {"none": ("lr", "beta1", "beta2", "tau"), "momentum": ("beta2", "tau")}
    for name in idle.get(config.server_optimizer, ()):
        given = getattr(config, f"server_{name}")
        if given != type(config).model_fields[f"server_{name}"].default:
            raise ConfigError(
                f"Key '{run.method}.server-{name}' = {given} has no effect with "
                f"'{run.method}.server-optimizer' = {config.server_optimizer!r}. Leave it out, or "
                "choose another optimizer."
            )
    if -1 < config.server_lr < 0:
        raise ConfigError(
            f"Key '{run.method}.server-lr' = {config.server_lr}: give a rate from 0 on, or -1 for "
            "the optimizer's own."
        )


class ServerOptimizer:
    """Moments of the mean change, kept between rounds.

    Only parameters are optimized; running statistics take the average.

    Args:
        config: which rule, and its constants.
        run: says, with `task`, which entries of the network are parameters.
        task: what is segmented.
    """

    def __init__(self, config: ServerOptimizerConfig, run: RunConfig, task: Task) -> None:
        self._config = config
        self._moments = ServerState({}, {})
        with torch.device("meta"):  # shapes only: no memory, no random numbers
            self._names = {name for name, _ in build_unet(run.model, task).named_parameters()}

    def step(self, weights: Mapping[str, Tensor], average: Mapping[str, Tensor]) -> Arrays:
        """Return the next weights of the entries in `average`."""
        config, lr = self._config, self._config.server_lr
        if lr < 0:
            lr = 1.0 if config.server_optimizer == "momentum" else ADAPTIVE_LR
        merged, self._moments = server_update(
            weights,
            average,
            self._moments,
            self._names,
            kind=config.server_optimizer,
            lr=lr,
            beta1=config.server_beta1,
            beta2=config.server_beta2,
            tau=config.server_tau,
        )
        return merged

    def state(self) -> Arrays:
        """Return the moments as `first/<name>` and `second/<name>`."""
        first, second = self._moments
        return {f"first/{k}": v for k, v in first.items()} | {
            f"second/{k}": v for k, v in second.items()
        }

    def load_state(self, arrays: Arrays) -> None:
        """Restore what `state` returned."""
        parts: dict[str, Arrays] = {"first": {}, "second": {}}
        for key, value in arrays.items():
            moment, _, name = key.partition("/")
            parts[moment][name] = value
        self._moments = ServerState(parts["first"], parts["second"])
