"""Whole guided runs over a labeled, a mixed and an unlabeled site: stages, payloads, resumption."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file
from tiny_federations import Crash, Silent, run_watched, tiny_run, write_federation

from fedssl.functional.quality import CorrelationSums
from fedssl.methods import method_of
from fedssl.methods.base import ServerSetup
from fedssl.types import Output, Role, SiteInfo, Stage, Task, Upload

ANYTHING_GOES = {"quality.gate-correlation": -1.0, "quality.gate-blackout": 1.01}
TINY_GUIDE = {
    "method": "denoise",
    "denoise.passes": 2,
    "denoise.warmup-rounds": 2,
    "quality.guide": True,
    "quality.width": 4,
    "quality.threshold": 0.0,
    "quality.predictor-rounds": 2,
    "quality.predictor-steps": 2,
    "rounds": 6,
    "batch-size": 4,
}
"""Warm-up in rounds 0 and 1, the predictor in 2 and 3, the guided base method in 4 and 5."""


@pytest.fixture(scope="module")
def sites(tmp_path_factory):
    return write_federation(tmp_path_factory.mktemp("sites"))


@pytest.fixture(scope="module")
def configure(sites, prepared_cache):
    return lambda **keys: tiny_run(sites, prepared_cache, {**TINY_GUIDE, **keys})


@pytest.fixture(scope="module")
def whole(configure, tmp_path_factory):
    run = configure(**ANYTHING_GOES)
    return run_watched(run, tmp_path_factory.mktemp("whole") / "run")


def test_stages_come_in_the_order_of_the_phases(whole):
    stages = [r["stages"] for r in whole.rounds]
    assert stages == [["train"]] * 2 + [["predictor"], ["predictor", "gate"]] + [["train"]] * 2


def test_the_predictor_learns_while_the_segmenter_stands_still(whole):
    sent = {(d.round, d.stage): d.weights for d in whole.exchange.downloads}
    first, second, after = sent[2, "predictor"], sent[3, "predictor"], sent[4, "train"]
    moved = {n for n in first if not torch.equal(first[n], second[n])}
    assert moved
    assert all(n.startswith("predictor.") for n in moved)
    segmenter = [n for n in first if not n.startswith("predictor.")]
    assert all(torch.equal(first[n], after[n]) for n in segmenter)


def test_only_labeled_and_mixed_sites_train_and_test_the_predictor(whole):
    seen = Counter((d.stage, d.site) for d in whole.exchange.downloads if d.stage != "evaluate")
    assert {site for stage, site in seen if stage in ("predictor", "gate")} == {"north", "south"}
    assert seen["predictor", "south"] == 2
    assert seen["gate", "north"] == 1


def test_the_predictor_travels_to_the_sites_once(whole):
    carried = {
        (d.round, d.site)
        for d in whole.exchange.downloads
        if d.stage == "train" and any(n.startswith("predictor.") for n in d.weights)
    }
    assert carried == {(4, "north"), (4, "south"), (4, "west")}
    ready = [r["sites"]["west"]["quality/ready"] for r in whole.rounds[4:]]
    assert ready == [1.0, 1.0]


def test_an_unlabeled_site_sends_the_segmenter_and_scalars_only(whole):
    uploads = [u for u in whole.exchange.trained if u.site == "west"]
    assert len(uploads) == 2
    for upload in uploads:
        assert upload.knowledge == {}
        assert not any(n.startswith("predictor.") for n in upload.weights)
        assert 0 <= upload.metrics["quality/reliability"] <= 1
        assert upload.metrics["quality/used"] == 1.0


def test_the_gate_receives_six_sums_and_no_case(whole):
    uploads = [u for u in whole.exchange.trained if u.stage == "gate"]
    assert {u.site for u in uploads} == {"north", "south"}
    for upload in uploads:
        assert upload.weights == {}
        assert {k: tuple(v.shape) for k, v in upload.knowledge.items()} == {
            "normal": (6,),
            "blackout": (6,),
        }
    pooled = CorrelationSums()
    for upload in uploads:
        pooled = pooled + CorrelationSums.from_tensor(upload.knowledge["normal"])
    assert whole.rounds[-1]["rule"]["gate/pearson"] == pytest.approx(pooled.pearson())


def test_the_model_of_the_run_has_no_predictor(whole):
    assert not any(
        n.startswith("predictor.") for n in load_file(whole.folder / "model.safetensors")
    )


def test_the_labeled_sites_keep_the_warmups_snapshots(whole):
    kept = {p.parts[-3] for p in whole.folder.glob("sites/*/memory/snapshot-0.*")}
    assert kept == {"north", "south"}
    (path,) = whole.folder.glob("sites/north/memory/snapshot-0.*")
    received = next(d for d in whole.exchange.downloads if d.round == 1).weights
    snapshot = load_file(path)
    assert snapshot.keys() == received.keys()
    assert all(torch.equal(snapshot[n], received[n]) for n in snapshot)


def test_the_same_seed_gives_the_same_weights(whole, configure, tmp_path):
    again = run_watched(configure(**ANYTHING_GOES), tmp_path / "again", reverse=True, wire=True)
    assert again.digest == whole.digest


@pytest.mark.parametrize("after", [2, 3])
def test_a_run_resumes_bit_for_bit_also_between_the_predictors_rounds(
    after, whole, configure, tmp_path
):
    run = configure(**ANYTHING_GOES)
    with pytest.raises(Crash):
        run_watched(run, tmp_path / "run", progress=Silent(crash_after=after))
    progress = Silent()
    run = run.model_copy(update={"resume": True})
    resumed = run_watched(run, tmp_path / "run", progress=progress)
    assert progress.first_round == after + 1
    assert resumed.digest == whole.digest
    assert [r["rule"] for r in resumed.rounds] == [r["rule"] for r in whole.rounds]


def test_an_untrained_predictor_is_refused_and_guides_nothing(configure, tmp_path, caplog):
    finished = run_watched(configure(**{"quality.predictor-steps": 0}), tmp_path / "run")
    last = finished.rounds[-1]
    assert last["rule"]["gate/passed"] == 0.0
    assert last["rule"]["gate/pearson"] < 0.7
    assert not any(name.startswith("quality/") for name in last["sites"]["west"])
    assert not any(
        name.startswith("predictor.")
        for d in finished.exchange.downloads
        if d.site == "west"
        for name in d.weights
    )
    assert "Quality predictor refused" in caplog.text
    assert "All samples weigh the same" in caplog.text


def test_a_site_that_lost_its_predictor_says_so_and_is_sent_it_again(configure, tmp_path):
    folder = tmp_path / "run"

    def forget(upload: Upload) -> Upload:
        if (upload.site, upload.round) == ("west", 4):
            for path in (folder / "sites" / "west" / "memory").glob("predictor.*"):
                path.unlink()
        return upload

    finished = run_watched(configure(rounds=7, **ANYTHING_GOES), folder, change=forget)
    ready = [r["sites"]["west"]["quality/ready"] for r in finished.rounds[4:]]
    assert ready == [1.0, 0.0, 1.0]
    assert "quality/mean" not in finished.rounds[5]["sites"]["west"]


def test_a_refresh_trains_tests_and_sends_the_predictor_again(configure, tmp_path):
    keys = {**ANYTHING_GOES, "quality.refresh-every": 1}
    finished = run_watched(configure(**keys), tmp_path / "run")
    assert finished.rounds[5]["stages"] == ["predictor", "gate", "train"]
    carried = [
        d.round
        for d in finished.exchange.downloads
        if (d.site, d.stage) == ("west", "train") and any("predictor." in n for n in d.weights)
    ]
    assert carried == [4, 5]


@pytest.mark.parametrize(
    ("method", "keys"),
    [
        ("quality", {"quality.mode": "both"}),
        ("quality", {"quality.mode": "qar", "quality.teacher": "ema"}),
        ("mutual", {"quality.mode": "both", "quality.qar-mask": "ste"}),
        ("mean_teacher", {"quality.weigh-sites": True}),
    ],
)
def test_other_methods_are_guided_without_knowing(method, keys, configure, tmp_path):
    keys = {**ANYTHING_GOES, f"{method}.warmup-rounds": 1, "rounds": 4, **keys}
    run = configure(method=method, **keys, **{"quality.predictor-rounds": 1})
    finished = run_watched(run, tmp_path / "run")
    west = finished.rounds[-1]["sites"]["west"]
    assert west["quality/ready"] == 1.0
    assert ("loss/qar" in west) == (keys.get("quality.mode", "qw") != "qw")
    assert ("loss/pseudo" in west) == (method == "quality" and keys["quality.mode"] == "both")


FUNDUS = Task("t", ("background", "disc", "cup"), "2d", Output.NESTED, 3)
ROSTER = {
    "a": SiteInfo("a", Role.LABELED, 10, 10),
    "b": SiteInfo("b", Role.UNLABELED, 10, 0),
}


def rule_of(run, roster=ROSTER):
    method = method_of(run)
    parts = {"shared": ["w"]} | ({"predictor": ["predictor.w"]} if run.quality.guide else {})
    return method.server(ServerSetup(run.method_config, run, FUNDUS, roster, parts))


def test_between_the_predictors_rounds_the_base_rule_runs_on_its_own_clock(configure):
    guided = rule_of(configure(rounds=11))
    plain = rule_of(configure(rounds=9, **{"quality.guide": False}))
    rounds = [r for r in range(11) if r not in (2, 3)]
    for ours, theirs in zip(rounds, range(9), strict=True):
        assert guided.plan(ours) == plain.plan(theirs)
        clock = guided.clock(ours)
        assert {k: v for k, v in clock.items() if not k.startswith("quality_")} == plain.clock(
            theirs
        )
        assert clock["quality_round"] == theirs


def test_the_learning_rate_of_the_predictor_falls_over_its_rounds(configure):
    rule = rule_of(configure(rounds=11, **{"quality.predictor-rounds": 4}))
    rates = [rule.clock(r)["quality_lr"] for r in range(2, 6)]
    assert rates == pytest.approx([1.0, 0.853553, 0.5, 0.146447], abs=1e-6)


def test_a_rule_without_unlabeled_sites_trains_the_predictor_after_a_third(configure):
    mixed = {"a": SiteInfo("a", Role.MIXED, 10, 4)}
    run = configure(method="mutual", rounds=14)
    names = [[s.name for s in rule_of(run, mixed).plan(r)] for r in range(14)]
    assert [i for i, n in enumerate(names) if "predictor" in n] == [4, 5]


def test_unreliable_sites_may_count_less(configure):
    average = Stage("train", ("a", "b"), trains=("shared",))
    uploads = [
        Upload("a", Role.LABELED, 9, "train", 10, 10, {"w": torch.tensor([0.0])}),
        Upload("b", Role.UNLABELED, 9, "train", 10, 0, {"w": torch.tensor([1.0])}),
    ]
    less = replace(uploads[1], metrics={"quality/reliability": 0.4})
    keys = {"method": "mutual", "rounds": 12, "mutual.unlabeled-share": 1.0}
    merged = []
    for weigh, pair in ((False, less), (True, less), (True, uploads[1])):
        rule = rule_of(configure(**keys, **{"quality.weigh-sites": weigh}))
        merged.append(rule.merge(9, average, {}, [uploads[0], pair])["w"].item())
    assert merged == pytest.approx([10 / 20, 4 / 14, 10 / 20])


def test_the_predictor_waits_for_the_stage_that_asks_a_site(configure):
    rule = rule_of(configure())
    sums = CorrelationSums.of(torch.tensor([0.1, 0.5, 0.9]), torch.tensor([0.2, 0.5, 0.8]))
    knowledge = {"normal": sums.to_tensor(), "blackout": CorrelationSums().to_tensor()}
    upload = Upload("a", Role.LABELED, 3, "gate", 10, 10, {}, knowledge)
    rule.merge(3, Stage("gate", ("a",), sends=("predictor",)), {}, [upload])
    weights = {"w": torch.zeros(1)}
    answer = Upload("a", Role.LABELED, 4, "train", 10, 10, weights)
    rule.merge(4, Stage("train", ("a",), trains=("shared",)), weights, [answer])
    (stage,) = rule.plan(4)
    assert stage.sends == ("shared", "predictor")
    rule.merge(4, stage, weights, [answer])  # b was asked and is not there
    assert rule.plan(5)[0].sends == ()
    back = Upload("b", Role.UNLABELED, 5, "train", 9, 0, weights, metrics={"quality/ready": 0.0})
    rule.merge(5, stage, weights, [answer, back])
    assert rule.plan(5)[0].sends == ("shared", "predictor")


def test_the_state_of_the_rule_is_restored(configure):
    first, second = (rule_of(configure()) for _ in range(2))
    sums = CorrelationSums.of(torch.tensor([0.1, 0.5, 0.9]), torch.tensor([0.2, 0.5, 0.8]))
    black = CorrelationSums.of(torch.tensor([0.1, 0.5, 0.9]), torch.tensor([0.8, 0.5, 0.8]))
    knowledge = {"normal": sums.to_tensor(), "blackout": black.to_tensor()}
    upload = Upload("a", Role.LABELED, 3, "gate", 10, 10, {}, knowledge)
    first.merge(3, Stage("gate", ("a",), sends=("predictor",)), {}, [upload])
    assert first.metrics()["gate/passed"] == 1.0
    second.load_state(first.state())
    assert second.metrics() == first.metrics()
    assert second.plan(4) == first.plan(4)
    assert second.clock(4) == first.clock(4)
    assert second.clock(4)["quality_on"] == 1.0
