"""What a new network guesses before it has learned anything."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from fedssl.config import Scalar
from fedssl.functional.labels import foreground_probabilities
from fedssl.methods import METHODS, load_config, method_of
from fedssl.models import SegmentationModel
from fedssl.seeds import seeded
from fedssl.types import Output, Task

EXCLUSIVE = Task("parts", ("background", "front", "back"), output=Output.EXCLUSIVE)
NESTED = Task("disc", ("background", "disc", "cup"), output=Output.NESTED)
HEADS = {"cps": 2, "fedmix": 2, "mutual": 2, "mc_net": 3, "urpc": 4}
"""Methods with more than one prediction."""


def built(method: str, task: Task, prior: float, **keys: Scalar) -> SegmentationModel:
    given = {"federation": "federation.toml", "model.width": 4, "model.foreground-prior": prior}
    run = load_config({**given, "method": method, **keys})
    with seeded(0, torch.device("cpu")):
        return method_of(run).build_model(run, task)


def changed(method: str, task: Task, **keys: Scalar) -> dict[str, Tensor]:
    """Return what a prior of 0.1 changes in a new network."""
    before = built(method, task, 0, **keys).state_dict()
    after = built(method, task, 0.1, **keys).state_dict()
    assert before.keys() == after.keys()
    return {name: value for name, value in after.items() if not torch.equal(value, before[name])}


@pytest.mark.parametrize("task", [EXCLUSIVE, NESTED], ids=lambda t: t.output)
@pytest.mark.parametrize("method", sorted(METHODS))
def test_the_heads_of_every_method_start_from_the_prior_and_nothing_else_changes(
    method: str, task: Task
):
    seen = METHODS[method].task(task)
    biases = changed(method, seen)
    assert len(biases) == HEADS.get(method, 1)
    for name, bias in biases.items():
        assert name.endswith("bias")
        share = foreground_probabilities(bias[None, :, None, None], seen.output).flatten()
        wanted = 0.05 if seen.output == Output.EXCLUSIVE else 0.1
        assert torch.allclose(share, torch.full((2,), wanted))


@pytest.mark.parametrize(
    "keys",
    [
        {"mutual.decoders": 3},
        {"mutual.shared": "two_networks"},
        {"mutual.network": "vnet", "model.norm": "batch"},
    ],
    ids=str,
)
def test_so_do_all_decoders_and_networks_of_mutual(keys: dict[str, Scalar]):
    biases = changed("mutual", EXCLUSIVE, **keys)
    assert len(biases) == keys.get("mutual.decoders", 2)


def test_a_quality_predictor_is_no_head():
    alone = changed("denoise", EXCLUSIVE)
    assert changed("denoise", EXCLUSIVE, **{"quality.guide": True}).keys() == alone.keys()
