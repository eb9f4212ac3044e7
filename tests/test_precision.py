"""Tests of `fedssl.precision`."""

from __future__ import annotations

import logging

import pytest
import torch

from fedssl.config import RunConfig
from fedssl.precision import _warn_of_volumes, autocast
from fedssl.types import Task

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("precision", "mode", "warns"),
    [("bf16", "3d", True), ("bf16", "2.5d", False), ("fp32", "3d", False)],
)
def test_volumes_in_bf16_on_the_cpu_are_warned_of_once(precision, mode, warns, caplog):
    run, task = RunConfig(precision=precision), Task("task", ("background", "organ"), mode)
    _warn_of_volumes.cache_clear()
    with caplog.at_level(logging.WARNING, logger="fedssl"):
        for _ in range(2):
            with autocast(run, task, CPU):
                product = torch.ones(2, 2) @ torch.ones(2, 2)
    assert product.dtype == (torch.bfloat16 if precision == "bf16" else torch.float32)
    assert [r for r in caplog.messages if "precision = 'fp32'" in r] == caplog.messages
    assert len(caplog.messages) == int(warns)
