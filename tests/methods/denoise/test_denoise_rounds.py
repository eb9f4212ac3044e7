"""`denoise`: when its sites label, and the prototypes and teachers that they get for it."""

from __future__ import annotations

import pytest
import torch
from denoise_runs import (
    STAGE,
    THREE,
    UPLOADS,
    Start,
    rounds_in_which_maps_are_stored,
    rule,
    trained,
)

from fedssl.errors import ConfigError
from fedssl.functional.averaging import weighted_average
from fedssl.methods import load_config


@pytest.mark.parametrize(
    ("rounds", "warmup", "refresh", "expected"),
    [(5, 1, 2, [1, 3]), (4, 0, 3, [0, 3]), (4, 2, 0, [2]), (6, -1, -1, [2, 3, 4, 5])],
)
def test_a_site_labels_at_the_rounds_of_the_clock_and_at_no_other(
    rounds: int,
    warmup: int,
    refresh: int,
    expected: list[int],
    start: Start,
    monkeypatch: pytest.MonkeyPatch,
):
    written = rounds_in_which_maps_are_stored(monkeypatch)
    keys = {"rounds": rounds, "denoise.warmup-rounds": warmup, "denoise.refresh": refresh}
    run = start(keys={**keys, "local-steps": 1})
    assert [n - 1 for n in sorted(set(written))] == expected
    asked = [d for d in run.exchange.downloads if d.site == "north" and d.stage == "train"]
    first = min(expected)
    assert [d.clock["phase"] for d in asked] == [1.0] * first + [2.0] * (rounds - first)
    assert [u.round for u in trained(run, "west")] == list(range(first, rounds))


def test_a_third_of_the_rounds_warms_up_and_a_sixth_lies_between_relabelings():
    default = rule({"rounds": 150})
    refreshes = [t for t in range(150) if default.clock(t)["refresh"]]
    assert refreshes == [50, 75, 100, 125]
    assert [t for t in range(150) if default.clock(t)["phase"] == 1.0] == list(range(50))


def test_a_warm_up_that_leaves_no_round_is_an_error_that_names_both_keys():
    keys = {"method": "denoise", "rounds": 5, "denoise.warmup-rounds": 5}
    with pytest.raises(ConfigError, match=r"'denoise\.warmup-rounds' = 5.*'rounds' = 5"):
        load_config(keys)
    assert load_config({**keys, "rounds": 6}).rounds == 6
    assert load_config({"method": "denoise", "rounds": 1}).rounds == 1


@pytest.mark.parametrize("source", ["local", "labeled", "mix"])
def test_prototypes_are_collected_at_refreshes_unless_they_are_local(source: str, start: Start):
    run = start(keys={"rounds": 4, "denoise.refresh": 2, "denoise.prototypes": source}, roles=THREE)
    extra = [] if source == "local" else ["prototypes"]
    assert [r["stages"] for r in run.rounds] == [
        ["train"],
        [*extra, "train"],
        ["train"],
        [*extra, "train"],
    ]
    asked = {u.site for u in run.exchange.trained if u.stage == "prototypes"}
    assert asked == ({"east", "north"} if extra else set())
    received = [sorted(d.knowledge) for d in run.exchange.downloads if d.site == "west"][:3]
    names = ["prototype_background", "prototype_object", "prototype_valid"] if extra else []
    assert received == [names, [], names]
    assert all(not d.knowledge for d in run.exchange.downloads if d.site in ("east", "north"))


def test_pooled_prototypes_are_sums_over_sites_divided_once(start: Start):
    run = start(keys={"denoise.prototypes": "labeled", "rounds": 2}, roles=THREE)
    sums = [u.knowledge for u in run.exchange.trained if u.stage == "prototypes"]
    received = next(d.knowledge for d in run.exchange.downloads if d.site == "west")
    assert len(sums) == 2
    for side in ("object", "background"):
        total = sums[0][f"{side}_sum"] + sums[1][f"{side}_sum"]
        weight = sums[0][f"{side}_weight"] + sums[1][f"{side}_weight"]
        valid = received["prototype_valid"]
        expected = torch.where(valid[:, None], total / weight[:, None], torch.zeros_like(total))
        torch.testing.assert_close(received[f"prototype_{side}"], expected, rtol=0, atol=1e-12)
        assert total.shape == (2, 4)


def test_the_teachers_are_the_labeled_sites_last_models_or_their_average(start: Start):
    for source, count in (("ensemble", 2), ("labeled_avg", 1), ("global", 0)):
        run = start(keys={"denoise.source": source, "rounds": 2}, roles=THREE)
        last = [u for u in run.exchange.trained if u.round == 0]
        received = next(d.knowledge for d in run.exchange.downloads if d.site == "west")
        assert {key.partition("/")[0] for key in received} == {f"teacher.{i}" for i in range(count)}
        models = [u.weights for u in last]
        average = weighted_average(models, [u.num_labeled for u in last])
        for index, model in enumerate(models if count == 2 else [average] * count):
            for name, value in model.items():
                assert torch.equal(received[f"teacher.{index}/{name}"], value), (source, name)


def test_a_resumed_rule_remembers_its_teachers():
    before, after = rule({"denoise.source": "ensemble"}), rule({"denoise.source": "ensemble"})
    before.merge(9, STAGE, UPLOADS[0].weights, UPLOADS)
    after.load_state(before.state())
    names = [f"teacher.{i}/{name}" for i in (0, 1) for name in ("steps", "w")]
    assert sorted(after.state()) == names
    assert all(torch.equal(after.state()[k], v) for k, v in before.state().items())
