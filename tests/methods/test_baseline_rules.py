"""What the baselines' coordinators and clocks do, worked by hand."""

from __future__ import annotations

import math

import pytest
import torch
from baseline_runs import TASK, configured
from tiny_federations import TINY

from fedssl.errors import ConfigError
from fedssl.functional.averaging import cpu_copy
from fedssl.functional.schedules import sigmoid_ramp
from fedssl.methods import METHODS, load_config
from fedssl.methods.base import ServerSetup
from fedssl.methods.ssl_rule import Phases, capped, sample_weights
from fedssl.types import (
    Role,
    SiteInfo,
    Stage,
    Upload,
)

ROSTER = {
    "a": SiteInfo("a", Role.LABELED, 10, 10),
    "m": SiteInfo("m", Role.MIXED, 50, 5),
    "u": SiteInfo("u", Role.UNLABELED, 40, 0),
}
TRAIN = Stage("train", ("a", "m", "u"), trains=("shared",))


def rule(method, **keys):
    run = configured(method, **keys)
    return METHODS[method].server(
        ServerSetup(run.method_config, run, TASK, ROSTER, {"shared": ["w"]})
    )


def upload(site, value, metrics=None, **knowledge):
    info = ROSTER[site]
    return Upload(
        site,
        info.role,
        0,
        "train",
        info.num_examples,
        info.num_labeled,
        {"w": torch.tensor([float(value)])},
        knowledge,
        {"steps_skipped": 0.0, **(metrics or {})},
    )


def merged(rule_, round_, *uploads, before=0.0):
    weights = {"w": torch.tensor([float(before)])}
    return rule_.merge(round_, TRAIN, weights, uploads)["w"].item()


def test_the_warm_up_asks_sites_with_masks_and_later_all():
    r = rule("mean_teacher", warmup_rounds=2)
    assert [s.sites for s in r.plan(1)] == [("a", "m")]
    assert [s.sites for s in r.plan(2)] == [("a", "m", "u")]


def test_the_clock_counts_rounds_since_the_warm_up_and_never_restarts():
    clocks = [rule("mean_teacher", warmup_rounds=2, ramp_rounds=3).clock(t) for t in range(12)]
    assert [c["phase"] for c in clocks] == [1, 1] + [2] * 10
    assert [c["since"] for c in clocks] == list(range(-2, 10))
    assert {c["ramp"] for c in clocks} == {3}
    assert {c["after"] for c in clocks} == {10}


def test_unset_lengths_are_a_third_and_a_fifth_of_the_rounds():
    assert Phases.of(configured("ict").method_config, 30) == Phases(10, 6, 20)


def test_unlabeled_samples_weigh_alpha():
    r = rule("mean_teacher", warmup_rounds=2, ramp_rounds=4, unlabeled_weight=0.5)
    uploads = [upload("a", 1), upload("m", 3), upload("u", 7)]
    alpha = 0.5 * sigmoid_ramp(2, 4)
    expected = (10 * 1 + 5 * 3 + alpha * 40 * 7) / (10 + 5 + alpha * 40)
    assert merged(r, 3, *uploads) == pytest.approx(expected)
    assert r.metrics() == {"alpha": pytest.approx(alpha)}
    assert merged(r, 1, *uploads[:2]) == pytest.approx(25 / 15)


def test_unlabeled_sites_hold_a_share_at_most_and_keep_their_proportions():
    uploads = [upload("a", 0), upload("u", 0), upload("m", 0), upload("u", 0)]
    assert capped(uploads, [2, 6, 4, 18], 0.25) == pytest.approx([2, 0.5, 4, 1.5])
    assert capped(uploads, [2, 0.5, 4, 1], 0.25) == [2, 0.5, 4, 1]
    assert capped(uploads, [2, 6, 4, 18], 1.0) == [2, 6, 4, 18]
    assert capped(uploads, [0, 6, 0, 18], 0.25) == [0, 6, 0, 18]
    r = rule("mean_teacher", warmup_rounds=0, ramp_rounds=0, unlabeled_share=0.25)
    assert merged(r, 5, upload("a", 0), upload("u", 1)) == pytest.approx(0.25)


def test_fed_consist_steps_less_far_where_unlabeled_sites_are_cut():
    r = rule("fed_consist", warmup_rounds=0, ramp_rounds=0, unlabeled_share=0.25)
    value = merged(r, 5, upload("a", 4), upload("u", 8), before=2)
    # 2 of 4 steps each; a quarter is a third of the labeled site's: 2 + 1/2 (4 - 2) + 1/6 (8 - 2)
    assert value == pytest.approx(4.0)


FEDERATED = ["fedmix", "fedsemiseg", "cbafed", "fedirm", "rscfed", "fed_consist"]


@pytest.mark.parametrize("method", FEDERATED)
def test_published_averages_are_not_cut(method):
    assert rule(method).common.unlabeled_share == 1.0


def test_a_site_weighs_its_trusted_share_if_asked_and_nothing_if_that_is_zero():
    half, none = upload("u", 0, {"trusted": 0.5}), upload("u", 0, {"trusted": 0.0})
    assert sample_weights([half, none], 0.5, by_trusted=True) == [10, 0]
    idle = upload("u", 0, {"steps_skipped": 10.0})  # e.g. no image is good enough for its guide
    busy = upload("u", 0, {"steps_skipped": 9.0, "loss": 0.1})
    assert sample_weights([idle, busy], 0.5) == [0, 20]
    assert sample_weights([half, none, upload("u", 0)], 0.5) == [20, 0, 20]
    assert sample_weights([upload("m", 0), half], 0.5, uniform=True) == [1, 0.5]


def test_a_site_cannot_report_its_way_to_another_weight():
    greedy, negative = upload("u", 0, {"trusted": 50.0}), upload("u", 0, {"trusted": -1.0})
    assert sample_weights([greedy, negative], 0.5, by_trusted=True) == [20, 0]
    r = rule("fed_consist", warmup_rounds=0, ramp_rounds=0)
    plain = merged(r, 5, upload("a", 4), upload("u", 8), before=2)
    assert merged(r, 5, upload("a", 4), upload("u", 8, {"steps_skipped": -9.0}), before=2) == plain
    r = rule("fedmix", warmup_rounds=0)
    assert merged(r, 5, upload("a", 4, {"loss": 1.0}), upload("u", 8, {"loss": -1.0})) < 8


def test_fed_consist_adds_changes_weighted_by_steps_and_importance():
    r = rule("fed_consist", warmup_rounds=0, unlabeled_weight=0.25)
    skipped = {"steps_skipped": 1.0, "loss": 0.1}  # one of two steps
    value = merged(r, 5, upload("a", 4), upload("u", 8, skipped), before=2)
    # n = 2, 1 of 3 steps: 2 + 2/3 (4 - 2) + 1/3 0.25 (8 - 2)
    assert value == pytest.approx(2 + 4 / 3 + 0.5)


def test_fedmix_weighs_samples_and_losses():
    r = rule("fedmix", warmup_rounds=0)
    value = merged(
        r, 5, upload("a", 0, {"loss": 4.0}), upload("u", 1, {"loss": 1.0, "trusted": 0.5})
    )
    # counts 10 and 20, losses to the power 1.5: 8 and 1
    raw = [10 / 30 + 80 / 9, 20 / 30 + 10 / 9]
    assert value == pytest.approx(raw[1] / sum(raw))


def test_rscfed_draws_the_same_subsets_again_and_averages_consensus_models():
    uploads = [upload("a", 1), upload("m", 2), upload("u", 4)]
    r = rule("rscfed", warmup_rounds=0, subset_size=1, subsets=40, labeled_scale=0.0)
    value = merged(r, 5, *uploads)
    assert value == merged(rule("rscfed", subset_size=1, subsets=40), 5, *uploads)
    assert value != merged(r, 6, *uploads)
    assert 1.5 < value < 3.2  # subsets of one: every site as often as the others, about


def test_fedirm_averages_relations_of_labeled_sites_for_the_next_round():
    r = rule("fedirm", warmup_rounds=1, ramp_rounds=0)
    known = torch.tensor([True, True, False])
    one, two = torch.eye(3), torch.full((3, 3), 1 / 3)
    uploads = [
        upload("a", 0, relation=one, relation_valid=known),
        upload("m", 0, relation=two, relation_valid=torch.tensor([True, False, False])),
        upload("u", 3),
    ]
    assert merged(r, 1, *uploads) == pytest.approx(1.0)  # uniform
    assert r.knowledge(2, TRAIN, "a") == {}
    sent = r.knowledge(2, TRAIN, "u")
    assert torch.equal(sent["relation_valid"], known)
    torch.testing.assert_close(sent["relation"][0], torch.tensor([2 / 3, 1 / 6, 1 / 6]))
    torch.testing.assert_close(sent["relation"][1], one[1])


def test_cbafed_shares_and_looks_back():
    r = rule("cbafed", warmup_rounds=1, residual=2)
    counts = {
        s: torch.tensor(v, dtype=torch.float64) for s, v in (("a", [6.0, 1, 1]), ("u", [2.0, 0, 0]))
    }
    warm = upload("a", 2, class_count=counts["a"])
    assert merged(r, 0, warm, before=1) == 2
    assert r.knowledge(1, TRAIN, "u")["class_share"].tolist() == [0.75, 0.125, 0.125]
    joint = [warm, upload("u", 7, {"trusted": 0.25}, class_count=counts["u"])]
    plain = (10 * 2 + 40 * 0.25 * 7) / 20
    assert merged(r, 1, *joint, before=1) == pytest.approx(plain)
    assert r.knowledge(2, TRAIN, "u")["class_share"].tolist() == [0.8, 0.1, 0.1]
    copy = rule("cbafed", warmup_rounds=1, residual=2)
    copy.load_state({k: v.clone() for k, v in r.state().items()})
    for one in (r, copy):  # two rounds after the phase began with 1
        assert merged(one, 2, *joint, before=plain) == pytest.approx((plain + 1) / 2)


def test_fedsemiseg_mixes_labeled_models_by_likeness():
    r = rule("fedsemiseg", warmup_rounds=1, bank_rounds=2)
    axis = torch.eye(2)
    first = [upload("a", 0, prototype=axis), upload("m", 1, prototype=axis.flip(0))]
    merged(r, 0, *first)
    sent = r.knowledge(1, TRAIN, "u")
    assert sent["auxiliary/w"].item() == pytest.approx(0.5)  # nothing is known of the site yet
    merged(r, 1, *first, upload("u", 9, {"trusted": 1.0}, prototype=axis))
    sent = r.knowledge(2, TRAIN, "u")
    assert sent["auxiliary/w"].item() == pytest.approx(1 / (1 + math.e))
    assert sent["bank"].shape == (4, 2, 2)
    merged(r, 2, *first)
    assert r.knowledge(3, TRAIN, "u")["bank"].shape == (4, 2, 2)
    assert r.knowledge(3, TRAIN, "a") == {}
    copy = rule("fedsemiseg", warmup_rounds=1, bank_rounds=2)
    copy.load_state({k: v.clone() for k, v in r.state().items()})
    ours, theirs = r.knowledge(3, TRAIN, "u"), copy.knowledge(3, TRAIN, "u")
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[k], theirs[k]) for k in ours)


def test_moments_of_the_server_survive_a_restart():
    run = load_config({**TINY, "fedavg.server-optimizer": "yogi", "method": "fedavg"})
    weights = cpu_copy(METHODS["fedavg"].build_model(run, TASK).state_dict())
    rules = [
        METHODS["fedavg"].server(ServerSetup(run.method_config, run, TASK, ROSTER, {}))
        for _ in range(2)
    ]
    moved = {k: v + 0.01 for k, v in weights.items()}
    sent = Upload("a", Role.LABELED, 0, "train", 10, 10, moved)
    after = rules[0].merge(0, TRAIN, weights, [sent])
    rules[1].load_state(rules[0].state())
    ours, theirs = (one.merge(1, TRAIN, after, [sent]) for one in rules)
    assert all(torch.equal(ours[k], theirs[k]) for k in ours)
    fresh = METHODS["fedavg"].server(ServerSetup(run.method_config, run, TASK, ROSTER, {}))
    other = fresh.merge(1, TRAIN, after, [sent])
    assert any(not torch.equal(ours[k], other[k]) for k in ours)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"server-lr": 0.3}, r"server-lr' = 0\.3 has no effect with 'fedavg\.server-opt.* 'none'"),
        ({"server-optimizer": "momentum", "server-tau": 1.0}, r"server-tau' = 1\.0 has no effect"),
        ({"server-optimizer": "adam", "server-lr": -0.5}, r"give a rate from 0 on, or -1"),
    ],
)
def test_keys_of_the_server_that_would_do_nothing_are_refused(keys, message):
    with pytest.raises(ConfigError, match=message):
        load_config({"method": "fedavg", **{f"fedavg.{key}": value for key, value in keys.items()}})
    for used in ("adagrad", "adam", "yogi"):
        load_config({"method": "fedavg", "fedavg.server-optimizer": used, "fedavg.server-lr": 0.3})
