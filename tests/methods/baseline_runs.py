"""The task and the keys of the tests of baselines."""

from __future__ import annotations

from tiny_federations import TINY

from fedssl.methods import load_config
from fedssl.types import (
    Output,
    Task,
)

TASK = Task("t", ("background", "disc", "cup"), "2d", Output.NESTED, 3)


def configured(method, **keys):
    own = {f"{method}.{k.replace('_', '-')}": v for k, v in keys.items()}
    return load_config({**TINY, "rounds": 12, "method": method, **own})
