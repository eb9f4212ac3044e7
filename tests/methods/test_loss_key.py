"""The key `loss`: what masks are compared by, wherever a method has not published its own."""

from __future__ import annotations

import pytest
import torch
from baseline_runs import TASK, configured
from tiny_federations import TINY

from fedssl.errors import ConfigError
from fedssl.memory import FileMemory
from fedssl.methods import METHODS, load_config
from fedssl.methods.base import LocalSetup
from fedssl.seeds import generators
from fedssl.types import Download, LabeledBatch, Role

FOLLOW = ("fedavg", "fedprox", "denoise", "mean_teacher", "fixmatch", "cps", "mc_net", "urpc")
OWN = ("fed_consist", "mutual", "reference")


def supervised(tmp_path, method, loss):
    """Return the loss of one labeled batch by networks that are alike."""
    run = configured(method).model_copy(update={"loss": loss})
    torch.manual_seed(0)
    model = METHODS[method].build_model(run, METHODS[method].task(TASK)).train()
    rng, memory = generators(0, "t"), FileMemory(tmp_path / "memory", 0, 0)
    task = METHODS[method].task(TASK)
    where = torch.device("cpu")
    setup = LocalSetup(run.method_config, run, task, model, memory, rng, where, Role.LABELED)
    clock = dict.fromkeys(("since", "ramp", "after", "refresh", "build", "step", "steps", "t"), 0.0)
    download = Download("run", 0, "train", "u", clock={"phase": 1.0, **clock})
    objective = METHODS[method].labeled(setup)
    objective.begin(download, NoCases())
    label = torch.arange(2 * 32 * 32).reshape(2, 32, 32) // 100 % 3
    batch = LabeledBatch(torch.randn(2, 3, 32, 32), label, torch.zeros(2, dtype=torch.int64))
    torch.manual_seed(1)
    found = objective.training_step(batch, None).supervised
    assert found is not None
    return found.item()


class NoCases:
    labeled = unlabeled = kept = ()
    num_labeled = 0


@pytest.mark.parametrize("method", FOLLOW)
def test_dice_ce_is_the_sum_of_dice_and_ce(tmp_path, method):
    dice, ce, both = (supervised(tmp_path, method, loss) for loss in ("dice", "ce", "dice-ce"))
    assert both == pytest.approx(dice + ce, rel=1e-5)
    assert 0 < dice != ce > 0


@pytest.mark.parametrize("method", OWN)
def test_a_published_loss_is_not_touched(tmp_path, method):
    assert supervised(tmp_path, method, "ce") == supervised(tmp_path, method, "dice-ce")


def test_another_loss_is_refused_by_name():
    with pytest.raises(ConfigError, match=r"'loss'.*'dice-ce', 'dice' or 'ce'.*'focal'"):
        load_config({**TINY, "loss": "focal"})
