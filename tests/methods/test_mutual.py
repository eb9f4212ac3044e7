from __future__ import annotations

import logging
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tiny_federations import TINY, run_watched, tiny_run, write_federation

from fedssl.errors import ConfigError
from fedssl.evaluate import in_task
from fedssl.functional.losses import reduce_term
from fedssl.functional.mutual import MutualLoss, TeacherView, mutual_loss
from fedssl.memory import FileMemory
from fedssl.methods import load_config
from fedssl.methods.base import LocalSetup, ServerSetup
from fedssl.methods.mutual import METHOD, MutualLearning, MutualRule
from fedssl.methods.mutual_health import Health
from fedssl.methods.mutual_nets import all_outputs
from fedssl.models.two_networks import TwoNetworks
from fedssl.seeds import generators
from fedssl.types import (
    Download,
    LabeledBatch,
    Output,
    Role,
    SiteInfo,
    Task,
    UnlabeledBatch,
    Upload,
    View,
)

FUNDUS = Task("t", ("background", "disc", "cup"), "2d", Output.EXCLUSIVE, 3)
ATRIUM = Task("la", ("background", "atrium"), "3d", Output.EXCLUSIVE, 1)


def configured(**keys):
    flat = {**TINY, "method": "mutual"}
    return load_config({**flat, **{k.replace("__", "."): v for k, v in keys.items()}})


@pytest.fixture
def learn(tmp_path):
    """Return an objective that has begun a stage, on random weights."""

    def make(role=Role.MIXED, *, step=0, ramp=100, task=FUNDUS, **keys):
        keys = {k if "__" in k or "." in k else f"mutual.{k}": v for k, v in keys.items()}
        run = configured(**{k.replace("_", "-") if "." in k else k: v for k, v in keys.items()})
        torch.manual_seed(0)
        model = METHOD.build_model(run, task).train()
        setup = LocalSetup(
            config=run.method_config,
            run=run,
            task=task,
            model=model,
            memory=FileMemory(tmp_path / "memory", 0, 1),
            rng=generators(0, "test"),
            device=torch.device("cpu"),
            role=role,
        )
        objective = MutualLearning(setup)
        clock = {"step": float(step), "ramp": float(ramp)}
        objective.begin(Download("run", 0, "train", "west", clock=clock), None)
        return objective

    return make


def labeled_batch(count=2, seed=1):
    rng = torch.Generator().manual_seed(seed)
    image = torch.randn((count, 3, 16, 16), generator=rng)
    label = torch.randint(3, (count, 16, 16), generator=rng)
    return LabeledBatch(image, label, torch.arange(count))


def unlabeled_batch(count=2, seed=2):
    image = torch.randn((count, 3, 16, 16), generator=torch.Generator().manual_seed(seed))
    views = {"weak": View(image, torch.zeros(0)), "strong": View(-image, torch.zeros(0))}
    return UnlabeledBatch(views, {}, torch.arange(count))


def no_dropout(objective):
    objective.setup.model.eval()
    return objective


def always_background(model):
    """Let every decoder see background everywhere, the second a little less clearly."""
    with torch.no_grad():
        for index, decoder in enumerate(model.decoders):
            decoder.head.weight.zero_()
            decoder.head.bias.copy_(torch.tensor([5.0 - index, 0.0, 0.0]))


@pytest.mark.parametrize(
    ("iteration", "beta"),
    [(1, 0.0067), (149, 0.0067), (1500, 0.060), (3000, 0.287), (4500, 0.732), (6000, 1.0)],
)
def test_beta_follows_the_published_ramp_at_the_published_settings(learn, iteration, beta):
    objective = learn(step=iteration - 1, ramp=6000, ramp_interval=150)
    losses = objective.training_step(labeled_batch(), unlabeled_batch())
    assert [round(t.scale, 3 if beta > 0.01 else 4) for t in losses.unsupervised] == [beta, beta]


def test_the_ramp_counts_the_steps_of_the_run_and_no_round_restarts_it(learn):
    def betas(rounds, steps):
        rule = server_rule(rounds=rounds, local__steps=steps)
        found = []
        for round_ in range(rounds):
            clock = rule.clock(round_)
            assert clock["ramp"] == round(0.4 * 12)
            objective = learn(step=clock["step"], ramp=clock["ramp"])
            for _ in range(steps):
                losses = objective.training_step(labeled_batch(), None)
                found.append(losses.unsupervised[0].scale)
            assert objective.metrics()["beta"] == found[-1]
        return found

    expected = [math.exp(-5 * (1 - min(t, 5) / 5) ** 2) for t in range(1, 13)]
    assert betas(12, 1) == betas(2, 6) == pytest.approx(expected)


def test_a_mixed_step_is_gamma_times_dice_plus_beta_times_the_consistency(learn):
    objective = no_dropout(learn(step=100, gamma=0.3, beta_max=0.7))
    labeled, unlabeled = labeled_batch(), unlabeled_batch(3)
    losses = objective.training_step(labeled, unlabeled)
    image = torch.cat((labeled.image, unlabeled.views["weak"].image))
    with torch.no_grad():
        outputs = all_outputs(objective.setup.model, image)
    expected = mutual_loss(
        outputs.logits, outputs.features, labeled.label, 2, gamma=0.3, beta=0.7, scope="all"
    )
    total = losses.supervised + sum(reduce_term(t) for t in losses.unsupervised)
    torch.testing.assert_close(total, expected.total)
    assert expected.consistency > 0.1
    assert expected.supervised > 0.1


def test_a_term_shows_its_teachers_labels_and_its_students_probabilities(learn):
    objective = no_dropout(learn(consistency_scope="unlabeled"))
    labeled, unlabeled = labeled_batch(), unlabeled_batch(3)
    first, second = objective.training_step(labeled, unlabeled).unsupervised
    weak = unlabeled.views["weak"].image
    with torch.no_grad():
        a, b = (torch.softmax(z, 1) for z in all_outputs(objective.setup.model, weak).logits)
    assert (first.name, second.name) == ("mutual-1-from-2", "mutual-2-from-1")
    for term, student, teacher in ((first, a, b), (second, b, a)):
        torch.testing.assert_close(term.student_prob, student[:, 1:])
        hard = torch.nn.functional.one_hot(teacher.argmax(1), 3).movedim(-1, 1)[:, 1:]
        assert torch.equal(term.pseudo_mask, hard.to(torch.uint8))
        assert torch.equal(term.image, weak)
        assert term.numerator.shape == term.denominator.shape == (3,)
    assert (first.denominator + second.denominator).sum() <= 3 * 16 * 16


@pytest.mark.parametrize(("scope", "terms"), [("all", 2), ("unlabeled", 0)])
def test_at_a_labeled_site_decoders_teach_each_other_on_labeled_images_or_not(learn, scope, terms):
    losses = learn(Role.LABELED, consistency_scope=scope).training_step(labeled_batch(), None)
    assert losses.supervised > 0
    assert len(losses.unsupervised) == terms


def test_an_unlabeled_site_has_the_consistency_alone(learn):
    objective = learn(Role.UNLABELED)
    losses = objective.training_step(None, unlabeled_batch())
    assert losses.supervised is None
    assert len(losses.unsupervised) == 2
    assert {"foreground", "agreement", "disagreement", "collapsed"} < set(objective.metrics())


def test_the_proximal_term_holds_an_unlabeled_site_to_what_it_received(learn):
    objective = learn(Role.UNLABELED, proximal=2.0)
    assert objective.training_step(None, unlabeled_batch()).supervised == 0
    weight = objective.setup.model.decoders[0].head.weight
    with torch.no_grad():
        weight += 0.5
    losses = objective.training_step(None, unlabeled_batch())
    assert losses.supervised.item() == pytest.approx(2.0 / 2 * weight.numel() * 0.25)


def test_decoders_that_are_equally_sure_everywhere_skip_the_step(learn):
    objective = learn(Role.UNLABELED)
    for decoder in objective.setup.model.decoders:
        torch.nn.init.zeros_(decoder.head.weight)
        torch.nn.init.zeros_(decoder.head.bias)
    losses = objective.training_step(None, unlabeled_batch())
    assert losses.supervised is None
    assert not losses.unsupervised


def test_three_decoders_teach_along_six_ordered_pairs(learn):
    losses = learn(decoders=3).training_step(labeled_batch(), unlabeled_batch())
    assert len({t.name for t in losses.unsupervised}) == 6


def test_the_strong_view_is_used_if_asked_for(learn):
    unlabeled = unlabeled_batch()
    term = learn(Role.UNLABELED, view="strong").training_step(None, unlabeled).unsupervised[0]
    assert torch.equal(term.image, unlabeled.views["strong"].image)


def test_cross_entropy_can_be_added_to_the_supervised_loss(learn):
    plain = no_dropout(learn()).training_step(labeled_batch(), None).supervised
    more = no_dropout(learn(ce_weight=1.0)).training_step(labeled_batch(), None).supervised
    assert more > plain + 0.5


def test_a_collapse_to_background_is_measured_and_logged(learn, caplog):
    objective = learn(Role.UNLABELED)
    always_background(objective.setup.model)
    with caplog.at_level(logging.WARNING, "fedssl"):
        objective.training_step(None, unlabeled_batch())
        found = objective.metrics()
    assert found["collapsed"] == 1
    assert found["foreground"] == 0
    assert found["agreement"] == 1
    assert "west" in caplog.text
    assert "collapsed to background" in caplog.text


def test_a_collapse_to_foreground_is_logged_too(learn, caplog):
    objective = learn(Role.UNLABELED)
    always_background(objective.setup.model)
    with torch.no_grad():
        for decoder in objective.setup.model.decoders:
            decoder.head.bias.neg_()
    with caplog.at_level(logging.WARNING, "fedssl"):
        objective.training_step(None, unlabeled_batch())
        found = objective.metrics()
    assert (found["collapsed"], found["foreground"]) == (1, 1)
    assert "collapsed to foreground" in caplog.text


def test_the_alarm_looks_at_unlabeled_samples_only(learn, caplog):
    objective = learn(Role.LABELED)
    always_background(objective.setup.model)
    with caplog.at_level(logging.WARNING, "fedssl"):
        objective.training_step(labeled_batch(), None)
        found = objective.metrics()
    assert "collapsed" not in found
    assert not caplog.text


def test_health_of_hand_made_maps():
    def teacher(label, reliability):
        label = torch.tensor([[[2, 2, 2, 2]], [label]])  # the first sample is labeled
        return TeacherView(torch.zeros(2, 1, 4), label, torch.full((2, 1, 4), reliability))

    loss = MutualLoss(
        total=torch.tensor(0.0),
        supervised=torch.tensor(0.5, requires_grad=True),
        consistency=torch.tensor(0.25),
        numerator=torch.zeros(2, 2),
        denominator=torch.zeros(2, 2),
        pairs=((0, 1), (1, 0)),
        teachers=(teacher([0, 1, 1, 0], 0.5), teacher([0, 1, 0, 0], 0.75)),
        selected=torch.tensor([0.25, 0.75]),
        reliability=torch.tensor([0.5, 0.75]),
    )
    health = Health(3, alarm_foreground=0.01)
    health.record(loss, 1)
    health.record(loss, 1)
    assert health.metrics() == pytest.approx(
        {
            "supervised": 0.5,
            "consistency": 0.25,
            "selected/1-from-2": 0.25,
            "selected/2-from-1": 0.75,
            "reliability/0": (2 * 0.5 + 3 * 0.75) / 5,
            "reliability/1": (2 * 0.5 + 1 * 0.75) / 3,
            "reliability/2": 0.625,
            "foreground": 2 / 4,
            "agreement": 3 / 4,
            "disagreement": 1 - 2 * 1 / (2 + 1),
            "collapsed": 0.0,
        }
    )


def server_rule(roles=("labeled",), **keys):
    run = configured(**{k.replace("__", "-"): v for k, v in keys.items()})
    sites = [(f"s{i}", Role(role)) for i, role in enumerate(roles)]
    roster = {name: SiteInfo(name, role, 6, 2) for name, role in sites}
    return MutualRule(ServerSetup(run.method_config, run, FUNDUS, roster, {}))


@pytest.mark.parametrize(("weigh", "mixed"), [("all", 6), ("labeled", 2)])
def test_the_average_weighs_sites_by_their_samples(weigh, mixed):
    rule = server_rule(**{"mutual.unlabeled-weight": 0.5, "mutual.weigh-mixed-by": weigh})
    uploads = [
        Upload(role.value, role, 0, "train", total, labeled, {"w": torch.tensor([value])})
        for role, total, labeled, value in (
            (Role.LABELED, 4, 4, 1.0),
            (Role.MIXED, 6, 2, 10.0),
            (Role.UNLABELED, 8, 0, 100.0),
        )
    ]
    expected = (4 * 1 + mixed * 10 + 0.5 * 8 * 100) / (4 + mixed + 4)
    merged = rule.merge(0, rule.plan(0)[0], {}, uploads)
    assert merged["w"].item() == pytest.approx(expected)


def test_unlabeled_sites_join_after_the_warmup():
    rule = server_rule(("labeled", "mixed", "unlabeled"), rounds=9)
    asked = [rule.plan(r)[0].sites for r in range(9)]
    assert asked == [("s0", "s1")] * 3 + [("s0", "s1", "s2")] * 6


def test_the_published_vnet_is_built_in_3d_with_its_number_of_parameters():
    keys = {"model.width": 16, "model.depth": 4, "model.norm": "batch", "mutual.network": "vnet"}
    model = METHOD.build_model(configured(**keys), ATRIUM)
    assert sum(p.numel() for p in model.parameters()) == 12_347_716
    assert METHOD.parts(model) == {"shared": list(model.state_dict())}


def test_the_vnet_exists_in_2d():
    keys = {"model.depth": 4, "mutual.network": "vnet"}
    model = METHOD.build_model(configured(**keys), FUNDUS)
    outputs = all_outputs(model, torch.zeros((1, 3, 32, 32)))
    assert [tuple(z.shape) for z in outputs.logits] == [(1, 3, 32, 32)] * 2


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"mutual.network": "vnet", "model.depth": 3}, ["model.depth", "4", "unet"]),
        ({"mutual.shared": "two_networks", "mutual.decoders": 3}, ["mutual.decoders", "2"]),
        ({"mutual.warmup-rounds": 4, "rounds": 4}, ["mutual.warmup-rounds", "rounds"]),
    ],
)
def test_keys_that_contradict_each_other_are_errors_that_name_both(keys, words):
    with pytest.raises(ConfigError) as error:
        configured(**keys)
    assert all(word in str(error.value) for word in words)


def test_two_networks_share_nothing_and_both_travel():
    model = METHOD.build_model(configured(**{"mutual.shared": "two_networks"}), FUNDUS)
    assert isinstance(model, TwoNetworks)
    assert METHOD.parts(model) == {"shared": list(model.state_dict())}
    first, second = (tuple(n.state_dict()) for n in (model.first, model.second))
    assert first != second, "the networks differ in how they upsample"
    outputs = all_outputs(model, torch.randn((1, 3, 16, 16)))
    outputs.logits[0].sum().backward()
    assert all(p.grad is None for p in model.second.parameters())


@pytest.fixture(scope="module")
def finished(tmp_path_factory, prepared_cache):
    """Runs over a labeled, a mixed and an unlabeled site, by their keys."""
    federation = write_federation(tmp_path_factory.mktemp("sites"))
    done = {}

    def run(**keys):
        key = tuple(sorted(keys.items()))
        if key not in done:
            flat = {"method": "mutual", "rounds": 3, **{f"mutual.{k}": v for k, v in keys.items()}}
            config = tiny_run(federation, prepared_cache, flat)
            done[key] = run_watched(config, tmp_path_factory.mktemp("run") / "run")
        return done[key]

    return run


def test_every_role_trains_and_reports_its_health(finished):
    *_, last = finished(shared="all").rounds
    north, south, west = (last["sites"][name] for name in ("north", "south", "west"))
    assert {"loss/supervised", "loss/mutual-1-from-2", "supervised", "consistency"} <= set(north)
    assert "collapsed" not in north
    assert {"loss/supervised", "loss/mutual-2-from-1", "foreground", "beta"} <= set(south)
    assert "loss/supervised" not in west
    assert {"selected/1-from-2", "reliability/0", "disagreement", "agreement"} <= set(west)
    assert north["beta"] == south["beta"] == west["beta"] == 1


def test_a_nested_task_is_trained_over_label_values_and_scored_as_nested(finished):
    done = finished(shared="all")
    assert load_file(done.folder / "model.safetensors")["decoders.0.head.bias"].shape == (3,)
    assert set(done.results["sites"]["west"]["dice"]) == {"disc", "cup"}


def test_a_private_second_decoder_never_leaves_its_site(finished):
    done = finished(shared="private_decoder2")
    travelled = {n for m in (*done.exchange.uploads, *done.exchange.downloads) for n in m.weights}
    assert any(n.startswith("decoders.0.") for n in travelled)
    assert any(n.startswith("encoder.") for n in travelled)
    assert not any(n.startswith("decoders.1.") for n in travelled)
    assert not any("decoders.1." in n for n in load_file(done.folder / "model.safetensors"))
    kept = [
        load_file(max((done.folder / "sites" / site / "memory").glob("private.*")))
        for site in ("north", "south")
    ]
    assert all(name.startswith("decoders.1.") for name in kept[0])
    assert not torch.equal(kept[0]["decoders.1.head.weight"], kept[1]["decoders.1.head.weight"])


def test_a_private_second_decoder_is_found_again_in_the_next_round(finished):
    """What round 3 starts from is what round 2 left: its own step moved it by little."""
    done = finished(shared="private_decoder2")
    files = sorted((done.folder / "sites" / "north" / "memory").glob("private.*"))
    before, after = (load_file(f)["decoders.1.head.weight"] for f in files[-2:])
    assert 0 < (after - before).abs().max() < 4 * done.run.lr * done.run.local_steps


@pytest.mark.parametrize("network", ["unet", "vnet"])
def test_volumes_are_trained_on_in_patches(tmp_path, prepared_cache, network):
    text = '[task]\nname = "p"\nclasses = ["background", "prostate"]\nmode = "3d"\n'
    text += '[[site]]\nname = "one"\nrole = "mixed"\nlabeled = 3\nlayout = "synthetic"\n'
    text += 'options = { kind = "prostate", look = 0, images = 8, size = 32 }\n'
    (tmp_path / "federation.toml").write_text(text)
    depth = 4 if network == "vnet" else 2
    flat = {
        "method": "mutual",
        "mutual.network": network,
        "rounds": 1,
        "patch-size": "16",
        "optimizer": "sgd",
        "lr": 0.01,
        "model.depth": depth,
        "model.norm": "batch",
    }
    done = run_watched(
        tiny_run(tmp_path / "federation.toml", prepared_cache, flat), tmp_path / "run"
    )
    (record,) = done.rounds
    assert {"loss/supervised", "loss/mutual-1-from-2"} <= set(record["sites"]["one"])


def test_exclusive_pseudo_labels_read_as_nested_include_the_classes_inside():
    disc_rim = np.array([[1, 1, 0, 0]])
    cup = np.array([[0, 0, 1, 0]])
    trust = np.array([[[1, 1, 1, 0]], [[1, 0, 1, 1]]])
    nested = replace(FUNDUS, output=Output.NESTED)
    pseudo, kept = in_task(np.stack([disc_rim, cup]), trust, FUNDUS, nested)
    assert pseudo.astype(int).tolist() == [[[1, 1, 1, 0]], [[0, 0, 1, 0]]]
    assert kept.astype(int).tolist() == [[[1, 0, 1, 0]]] * 2
    same, _ = in_task(np.stack([disc_rim, cup]), trust, FUNDUS, FUNDUS)
    assert same.tolist() == [[[1, 1, 0, 0]], [[0, 0, 1, 0]]]
