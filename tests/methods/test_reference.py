from __future__ import annotations

import logging

import numpy as np
import pytest
import torch
from tiny_federations import TINY, Finished, run_watched, tiny_run, write_federation

from fedssl.errors import ConfigError
from fedssl.methods import load_config
from fedssl.methods.base import ServerSetup
from fedssl.methods.reference import METHOD, ReferenceRule
from fedssl.methods.reference_bank import bank_nbytes
from fedssl.methods.reference_config import ReferenceConfig
from fedssl.types import Output, Role, SiteInfo, Stage, Task, Upload

FUNDUS = Task("t", ("background", "disc", "cup"), "2d", Output.EXCLUSIVE, 3)
SMALL = {
    "reference.grid": 16,
    "reference.min-pixels": 2,
    "reference.purity": 0.6,
    "reference.centroids": 8,
    "reference.background-centroids": 12,
}
ROUNDS = 4


@pytest.fixture(scope="module")
def finished(tmp_path_factory, prepared_cache):
    """Runs over a labeled, a mixed and an unlabeled site, by their keys."""
    federation = write_federation(tmp_path_factory.mktemp("sites"))
    done: dict[tuple, Finished] = {}

    def run(keys=None, **watch) -> Finished:
        key = (tuple(sorted((keys or {}).items())), tuple(watch))
        if key not in done:
            flat = {"method": "reference", "rounds": ROUNDS, **SMALL, **(keys or {})}
            config = tiny_run(federation, prepared_cache, flat)
            done[key] = run_watched(config, tmp_path_factory.mktemp("run") / "run", **watch)
        return done[key]

    return run


def downloads(done, site, stage="train"):
    found = [d for d in done.exchange.downloads if d.site == site and d.stage == stage]
    return {d.round: d for d in found}


def test_stale_the_bank_of_a_round_is_used_in_the_next_with_the_weights_that_made_it(finished):
    done = finished()
    assert [r["stages"] for r in done.rounds] == [["anchor", "train"], *[["train"]] * 3]
    received, anchors = downloads(done, "west"), downloads(done, "west", "anchor")
    labeled = downloads(done, "north")
    assert list(received) == [1, 2, 3]
    assert list(anchors) == [0]
    for round_, download in received.items():
        assert int(download.knowledge["bank_round"]) == round_ - 1
        kept = (anchors if round_ == 1 else received)[round_ - 1].weights
        made = labeled[round_ - 1].weights
        assert all(torch.equal(kept[name], made[name]) for name in made)
    assert all(r["sites"]["west"]["no_reference"] == 0 for r in done.rounds[1:])


def test_sync_the_bank_is_built_first_and_used_in_its_own_round(finished):
    done = finished({"reference.protocol": "sync"})
    assert [r["stages"] for r in done.rounds] == [["train"], *[["bank", "train"]] * 3]
    for round_, download in downloads(done, "west").items():
        assert int(download.knowledge["bank_round"]) == round_
    built = [u for u in done.exchange.uploads if u.stage == "bank"]
    assert {u.site for u in built} == {"north", "south"}
    assert not any(u.weights for u in built)
    assert not any(u.knowledge for u in done.exchange.uploads if u.stage == "train")


def test_every_role_trains_on_what_it_has(finished):
    *_, last = finished().rounds
    north, south, west = (last["sites"][name] for name in ("north", "south", "west"))
    assert {"loss/supervised"} == {k for k in north if k.startswith("loss/")}
    assert {"loss/supervised", "loss/reference", "loss/consistency"} <= set(south)
    assert {"loss/reference", "loss/consistency"} <= set(west)
    assert 0 < west["trusted"] <= 1
    first, *_ = finished().rounds
    assert "loss/reference" not in first["sites"]["south"], "a mixed site warms up on its masks"


def test_the_anchor_of_another_round_skips_the_reference_loss_of_that_round_only(finished, caplog):
    """West is away in round 2, so in round 3 it has weights of round 1 and a bank of round 2."""
    with caplog.at_level(logging.WARNING, "fedssl"):
        done = finished({"min-unlabeled": 0}, absent={(1, "west")})
    third, fourth = (r["sites"]["west"] for r in done.rounds[2:])
    assert (third["no_reference"], third["trusted"]) == (1, 0)
    assert "loss/reference" not in third
    assert third["loss/consistency"] > 0
    assert fourth["no_reference"] == 0
    assert fourth["loss/reference"] > 0
    assert "made with the weights of round 2, but this site keeps those of round 1" in caplog.text


def test_a_bank_takes_the_bytes_that_the_formula_says(finished):
    done = finished()
    sent = [u.knowledge for u in done.exchange.uploads if u.knowledge]
    received = [d.knowledge for d in done.exchange.downloads if d.knowledge]
    assert len(sent) == 2 * 3
    assert len(received) == 2 * 3
    for arrays in (*sent, *received):
        count, channels = arrays["bank_vectors"].shape
        assert 0 < count <= 2 * (12 + 2 * 8)
        nbytes = sum(a.numel() * a.element_size() for a in arrays.values())
        assert nbytes == bank_nbytes(count, channels) == count * (2 * 4 + 5) + 4


def test_uploads_hold_no_image_no_position_and_nothing_undeclared(finished):
    for keys in ({}, {"reference.protocol": "sync"}):
        for upload in finished(keys).exchange.uploads:
            assert set(upload.knowledge) <= {
                "bank_vectors",
                "bank_labels",
                "bank_counts",
                "bank_round",
            }
            assert upload.role != Role.UNLABELED or not upload.knowledge
            assert all(a.ndim <= 2 for a in upload.knowledge.values())
            assert all(32 not in a.shape for a in upload.knowledge.values())


def test_labels_are_kept_once_per_case_and_stay_at_the_site(finished):
    done = finished()
    folder = done.folder / "sites" / "west" / "pseudo"
    maps = {kind: sorted(folder.glob(f"*.{kind}.npy")) for kind in ("pseudo", "trust", "weight")}
    cases = len(maps["pseudo"])
    assert cases > 0
    for kind, channels in (("pseudo", 2), ("trust", 2), ("weight", 1)):
        loaded = [np.load(path) for path in maps[kind]]
        assert len(loaded) == cases
        assert all(a.shape == (channels, 32, 32) and a.dtype == np.uint8 for a in loaded)
    pseudo, trust, weight = (np.load(maps[kind][0]) for kind in ("pseudo", "trust", "weight"))
    assert pseudo.sum(0).max() <= 1
    assert np.array_equal(trust, np.broadcast_to(weight > 0, trust.shape))
    # Cells of a 16 x 16 grid at 32 x 32 pixels: blocks of 2 x 2 are constant.
    assert np.array_equal(weight[:, ::2, ::2].repeat(2, 1).repeat(2, 2), weight)
    assert done.rounds[-1]["sites"]["west"]["trusted"] == pytest.approx(
        np.mean([np.load(path).mean() / 255 for path in maps["weight"]]), abs=1e-5
    )


@pytest.mark.parametrize(
    "keys",
    [
        {
            "reference.readout": "soft",
            "reference.bank-select": "cosine",
            "reference.apply-to": "uncertain",
            "reference.certain": 0.5,
            "reference.noise-sigma": 0.02,
        },
        {
            "reference.agree-with-model": True,
            "reference.weight-form": "exp",
            "reference.divide-by": "weights",
            "reference.con-threshold": 0.36,
            "reference.mixed-from": "bank",
            "reference.protocol": "sync",
        },
    ],
)
def test_options_change_what_is_learned_and_train_on(finished, keys):
    done = finished(keys)
    assert done.digest != finished().digest
    assert done.rounds[-1]["sites"]["west"]["loss/reference"] > 0
    sources = "bank_source" in downloads(done, "west")[ROUNDS - 1].knowledge
    assert sources == ("reference.bank-select" in keys)


def test_a_mixed_site_can_match_with_its_own_pool_alone(finished):
    done = finished({"reference.mixed-from": "pool"})
    assert not any(d.knowledge for d in downloads(done, "south").values())
    assert done.rounds[-1]["sites"]["south"]["loss/reference"] > 0


def test_floors_that_no_site_passes_leave_the_consistency_and_a_warning(finished, caplog):
    with caplog.at_level(logging.WARNING, "fedssl"):
        done = finished({"reference.min-images": 50, "reference.mixed-from": "bank"})
    west = done.rounds[-1]["sites"]["west"]
    assert west["no_reference"] == 1
    assert "loss/reference" not in west
    assert "The reference bank of site north is not used: it is empty" in caplog.text


@pytest.mark.parametrize("mode", ["slices", "3d"])
def test_volumes_are_labeled_whole_and_trained_on_in_patches(tmp_path, prepared_cache, mode):
    text = f'[task]\nname = "p"\nclasses = ["background", "prostate"]\nmode = "{mode}"\n'
    for look, role in enumerate(("labeled", "unlabeled")):
        text += f'[[site]]\nname = "{role}"\nrole = "{role}"\nlayout = "synthetic"\n'
        text += f'options = {{ kind = "prostate", look = {look}, images = 6, size = 32 }}\n'
    (tmp_path / "federation.toml").write_text(text)
    flat = {"method": "reference", "rounds": 2, **SMALL, "patch-size": "16"}
    flat |= {"reference.views": 1, "reference.protocol": "sync", "reference.warmup-rounds": 1}
    config = tiny_run(tmp_path / "federation.toml", prepared_cache, flat)
    done = run_watched(config, tmp_path / "run")
    assert done.rounds[-1]["sites"]["unlabeled"]["loss/reference"] > 0
    assert 0 < done.results["sites"]["unlabeled"]["pseudo_dice"] <= 1


def rule_of(roles=("labeled", "mixed", "unlabeled"), rounds=10, **keys):
    config = ReferenceConfig(**{"warmup_rounds": 1, **keys})
    from fedssl.methods import load_config

    run = load_config({"method": "reference", "rounds": rounds})
    run = run.model_copy(update={"method_config": config})
    roster = {f"s{i}": SiteInfo(f"s{i}", Role(r), 8, 2) for i, r in enumerate(roles)}
    return ReferenceRule(ServerSetup(config, run, FUNDUS, roster, {}))


def test_an_unlabeled_site_counts_by_alpha_and_its_mean_label_weight():
    rule = rule_of(unlabeled_weight=0.5, ramp_rounds=0)
    uploads = [
        Upload(role.value, role, 5, "train", total, labeled, {"w": torch.tensor([w])}, {}, metrics)
        for role, total, labeled, w, metrics in (
            (Role.LABELED, 4, 4, 1.0, {}),
            (Role.MIXED, 6, 2, 10.0, {"trusted": 0.1}),
            (Role.UNLABELED, 8, 0, 100.0, {"trusted": 0.25}),
        )
    ]
    merged = rule.merge(9, Stage("train", (), trains=("shared",)), {}, uploads)
    weight = 0.5 * 8 * 0.25
    expected = (4 * 1 + 2 * 10 + weight * 100) / (4 + 2 + weight)
    assert merged["w"].item() == pytest.approx(expected)
    assert rule.metrics()["alpha"] == 0.5


def test_alpha_is_0_in_the_warmup_and_ramps_after_it():
    rule = rule_of(rounds=20, warmup_rounds=2)
    upload = Upload("s0", Role.LABELED, 0, "train", 4, 4, {"w": torch.zeros(1)})
    alphas = []
    for round_ in range(8):
        stage = rule.plan(round_)[-1]
        rule.merge(round_, stage, {}, [upload])
        alphas.append(rule.metrics()["alpha"])
    assert alphas[:2] == [0, 0]
    assert 0 < alphas[2] < alphas[3] < alphas[4] < alphas[5] == alphas[7] == 1


@pytest.mark.parametrize(("rounds", "given", "expected"), [(30, -1, 10), (4, -1, 1), (30, 7, 7)])
def test_the_warmup_is_a_third_of_the_rounds_unless_given(rounds, given, expected):
    rule = rule_of(rounds=rounds, warmup_rounds=given)
    joint = [r for r in range(rounds) if "s2" in rule.plan(r)[-1].sites]
    assert joint[0] == expected


def test_without_anybody_to_use_it_no_bank_is_built():
    for roles in (("labeled", "labeled"), ("labeled", "mixed")):
        rule = rule_of(roles, mixed_from="pool")
        assert all(len(rule.plan(r)) == 1 for r in range(10))
        assert not any(rule.clock(r)["build"] for r in range(10))


def test_the_last_round_builds_no_bank():
    assert [rule_of().clock(r)["build"] for r in (0, 8, 9)] == [1, 1, 0]


def test_banks_survive_in_the_rules_state():
    rule = rule_of()
    bank = {
        "bank_vectors": torch.eye(4).half()[:3],
        "bank_labels": torch.tensor([0, 1, 2], dtype=torch.uint8),
        "bank_counts": torch.tensor([5, 6, 7], dtype=torch.int32),
        "bank_round": torch.tensor(3, dtype=torch.int32),
    }
    rule.merge(3, rule.plan(3)[0], {}, [_upload("s0", bank)])
    other = rule_of()
    other.load_state(rule.state())
    passed = other.knowledge(4, Stage("train", ("s2",)), "s2")
    assert all(torch.equal(passed[name], bank[name]) for name in bank)
    assert other.knowledge(4, Stage("train", ("s0",)), "s0") == {}, "labeled sites need none"


def _upload(site, bank):
    return Upload(site, Role.LABELED, 3, "train", 4, 4, {"w": torch.zeros(1)}, bank)


def test_the_payload_declares_the_dtypes_that_travel():
    run = rule_of().setup.run
    declared = METHOD.payload(run, FUNDUS, {})
    assert set(declared.up["bank"]) == set(declared.up["train"])
    assert set(declared.down) == {"train"}
    assert declared.up["train"]["bank_vectors"].shape == (None, run.model.width)


def test_a_single_round_has_no_round_before_it():
    keys = {**TINY, "method": "reference", "rounds": 1, "reference.warmup-rounds": 0}
    with pytest.raises(ConfigError, match=r"'rounds' = 1\. .*reference.protocol = 'sync'"):
        load_config(keys)
    assert load_config({**keys, "reference.protocol": "sync"}).rounds == 1
