"""A run can be resumed from its checkpoint, and from no other."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from fedssl.checkpoint import Checkpoint, load_checkpoint, new_run_token, save_checkpoint
from fedssl.config import RunConfig, flatten
from fedssl.errors import CheckpointError
from fedssl.methods import load_config
from fedssl.results import RunFolder

FLAT = {"method": "denoise", "rounds": 9, "denoise.warmup-rounds": 2}


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    return RunFolder(tmp_path / "run", load_config(FLAT))


def checkpoint() -> Checkpoint:
    return Checkpoint(
        token="abc",
        round=4,
        step=7,
        weights={"w": torch.tensor([[0.1, float("1e-42")]]), "n": torch.tensor(3)},
        rule={"teacher.0/w": torch.ones(2, dtype=torch.float64), "on": torch.tensor([True])},
    )


def run(**keys: object) -> RunConfig:
    return load_config({**FLAT, **{k.replace("_", "-"): v for k, v in keys.items()}})


def test_a_checkpoint_is_read_as_it_was_written(folder: RunFolder):
    save_checkpoint(folder, checkpoint(), run())
    found = load_checkpoint(folder, run())
    assert (found.token, found.round, found.step) == ("abc", 4, 7)
    for ours, theirs in ((found.weights, checkpoint().weights), (found.rule, checkpoint().rule)):
        assert ours.keys() == theirs.keys()
        for name, value in theirs.items():
            assert ours[name].dtype == value.dtype
            assert torch.equal(ours[name], value)


def test_a_rule_without_state_is_fine(folder: RunFolder):
    save_checkpoint(folder, Checkpoint("t", 0, 0, {"w": torch.zeros(1)}, {}), run())
    assert load_checkpoint(folder, run()).rule == {}


def test_without_a_checkpoint_the_remedy_is_named(folder: RunFolder):
    with pytest.raises(CheckpointError, match=r"Nothing to resume: .*Start without --resume"):
        load_checkpoint(folder, run())


@pytest.mark.parametrize("keep", [0, 7, 40, -1])
def test_a_damaged_checkpoint_is_named_and_refused(folder: RunFolder, keep: int):
    save_checkpoint(folder, checkpoint(), run())
    folder.checkpoint.write_bytes(folder.checkpoint.read_bytes()[:keep])
    with pytest.raises(CheckpointError, match=r"latest\.safetensors is damaged"):
        load_checkpoint(folder, run())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": 1}, "seed: 0 then, 1 now"),
        ({"method": "fedavg"}, "method: 'denoise' then, 'fedavg' now"),
        ({"denoise.mu": 0.9}, r"denoise\.mu: 0\.7 then, 0\.9 now"),
        ({"model.width": 8}, r"model\.width: 16 then, 8 now"),
        ({"threads": 2}, "threads: 1 then, 2 now"),
    ],
)
def test_another_configuration_is_refused_key_by_key(
    folder: RunFolder, change: dict[str, object], message: str
):
    save_checkpoint(folder, checkpoint(), run())
    with pytest.raises(CheckpointError, match=message):
        load_checkpoint(folder, load_config({**FLAT, **change}))


def test_where_and_how_long_a_run_goes_on_may_change(folder: RunFolder):
    save_checkpoint(folder, checkpoint(), run())
    other = {"rounds": 20, "out": "/elsewhere", "device": "auto", "evaluate.every": 1}
    assert load_checkpoint(folder, load_config({**FLAT, **other, "resume": True})).round == 4


def test_fewer_rounds_than_are_done_cannot_be_asked_for(folder: RunFolder):
    save_checkpoint(folder, checkpoint(), run())
    assert load_checkpoint(folder, run(rounds=4)).round == 4
    with pytest.raises(CheckpointError, match=r"after round 4, but 'rounds' = 3\. Give at least 4"):
        load_checkpoint(folder, run(rounds=3))


def test_every_run_has_a_token_of_its_own():
    assert len({new_run_token() for _ in range(50)}) == 50


def test_the_whole_configuration_is_compared():
    from fedssl import checkpoint as module

    unknown = module._MAY_DIFFER - flatten(RunConfig()).keys()
    assert unknown == set(), "a key that may differ has to exist"
