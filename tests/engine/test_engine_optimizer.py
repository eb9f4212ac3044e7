"""What becomes of the optimizer and its rate between rounds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from scripted_site import Bench, Scripted, crooked, sum_of_all

from fedssl.methods.base import Recipe


@pytest.mark.parametrize(
    "keys",
    [
        {"optimizer": "adam"},
        {"optimizer": "adamw", "weight_decay": 0.1},
        {"optimizer": "sgd", "momentum": 0.9},
        {"optimizer": "sgd", "momentum": 0.0},
    ],
    ids=lambda keys: "-".join(map(str, keys.values())),
)
def test_two_rounds_with_a_kept_state_are_one_long_round(tmp_path: Path, keys: dict[str, Any]):
    halves, whole = Bench(tmp_path / "halves"), Bench(tmp_path / "whole")
    first = halves.run(crooked, local_steps=3, **keys)
    second = halves.run(crooked, local_steps=3, round_=1, weights=first.weights, **keys)
    once = whole.run(crooked, local_steps=6, **keys)
    for name, value in once.weights.items():
        assert torch.equal(second.weights[name], value), name


def test_a_reset_optimizer_begins_anew(tmp_path: Path):
    kept, reset = Bench(tmp_path / "kept"), Bench(tmp_path / "reset")
    keys = {"optimizer": "adam", "weights": {"head": torch.tensor([2.0])}}
    for bench in (kept, reset):
        bench.run(crooked, optimizer="adam", reset_optimizer=bench is reset)
    fresh = Bench(tmp_path / "fresh").run(crooked, round_=1, **keys)
    old = kept.run(crooked, round_=1, **keys)
    # the private number has moved at both, so only the others are compared
    new = reset.run(crooked, round_=1, reset_optimizer=True, **keys)
    assert torch.equal(new.weights["head"], fresh.weights["head"])
    assert not torch.equal(old.weights["head"], fresh.weights["head"])
    assert not [p for p in reset.folder.iterdir() if "optimizer" in p.name]


def test_the_optimizer_of_a_recipe_begins_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    adam = torch.optim.Adam
    monkeypatch.setattr(Scripted, "recipe", lambda _, found: Recipe(adam(found, 0.1), 2))
    bench, weights = Bench(tmp_path / "own"), {"head": torch.tensor([2.0])}
    bench.run(crooked)
    again = bench.run(crooked, round_=1, weights=weights)
    fresh = Bench(tmp_path / "fresh").run(crooked, round_=1, weights=weights)
    assert torch.equal(again.weights["head"], fresh.weights["head"])
    assert not [p for p in bench.folder.iterdir() if "optimizer" in p.name]


def test_each_parameter_gets_its_own_state_back_whatever_else_is_trained(tmp_path: Path):
    bench, alone = Bench(tmp_path / "both"), Bench(tmp_path / "alone")
    bench.run(crooked, optimizer="adam")
    alone.run(crooked, optimizer="adam", trains=("head",))
    now = bench.run(crooked, optimizer="adam", trains=("head",), round_=1)
    expected = alone.run(crooked, optimizer="adam", trains=("head",), round_=1)
    assert torch.equal(now.weights["head"], expected.weights["head"])


def test_the_poly_schedule_runs_over_the_whole_run(bench: Bench):
    keys = {"lr": 1.0, "lr_schedule": "poly", "rounds": 2}
    first = bench.run(sum_of_all, **keys)
    second = bench.run(sum_of_all, round_=1, **keys)
    rates = [(1 - step / 4) ** 0.9 for step in range(4)]
    assert 3 - first.weights["head"].item() == pytest.approx(sum(rates[:2]))
    assert 3 - second.weights["head"].item() == pytest.approx(sum(rates[2:]))


@pytest.mark.parametrize("keys", [{}, {"optimizer": "adam"}, {"lr_schedule": "poly", "rounds": 3}])
def test_an_objective_scales_its_learning_rate(tmp_path: Path, keys: dict[str, Any]):
    slow, whole = Bench(tmp_path / "slow", lr_factor=0.25), Bench(tmp_path / "whole")
    found = slow.run(sum_of_all, lr=0.4, round_=1, **keys)
    expected = whole.run(sum_of_all, lr=0.1, round_=1, **keys)
    for name, value in expected.weights.items():
        torch.testing.assert_close(found.weights[name], value)
