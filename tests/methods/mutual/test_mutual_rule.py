"""`mutual`: its average, its networks, and the keys that exclude each other."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from mutual_steps import FUNDUS, configured, server_rule

from fedssl.errors import ConfigError
from fedssl.evaluate import in_task
from fedssl.methods.mutual import METHOD
from fedssl.methods.mutual_nets import all_outputs
from fedssl.models.two_networks import TwoNetworks
from fedssl.types import (
    Output,
    Role,
    Task,
    Upload,
)

ATRIUM = Task("la", ("background", "atrium"), "3d", Output.EXCLUSIVE, 1)


@pytest.mark.parametrize(("weigh", "mixed"), [("all", 6), ("labeled", 2)])
@pytest.mark.parametrize(("share", "unlabeled"), [(1.0, 4.0), (0.2, None)])
def test_the_average_weighs_sites_by_their_samples(weigh, mixed, share, unlabeled):
    keys = {"unlabeled-weight": 0.5, "unlabeled-share": share, "weigh-mixed-by": weigh}
    rule = server_rule(**{f"mutual.{key}": value for key, value in keys.items()})
    unlabeled = unlabeled or (4 + mixed) / 4  # a fifth of all
    uploads = [
        Upload(role.value, role, 0, "train", total, labeled, {"w": torch.tensor([value])})
        for role, total, labeled, value in (
            (Role.LABELED, 4, 4, 1.0),
            (Role.MIXED, 6, 2, 10.0),
            (Role.UNLABELED, 8, 0, 100.0),
        )
    ]
    expected = (4 * 1 + mixed * 10 + unlabeled * 100) / (4 + mixed + unlabeled)
    merged = rule.merge(0, rule.plan(0)[0], {}, uploads)
    assert merged["w"].item() == pytest.approx(expected)


def test_an_unlabeled_site_that_skipped_every_step_weighs_nothing():
    rule = server_rule(**{"mutual.unlabeled-share": 1.0})
    weights = {"w": torch.tensor([1.0])}, {"w": torch.tensor([100.0])}
    labeled = Upload("a", Role.LABELED, 0, "train", 4, 4, weights[0])
    skipped = Upload("b", Role.UNLABELED, 0, "train", 8, 0, weights[1])
    skipped = replace(skipped, metrics={"steps_skipped": 2.0})
    assert rule.merge(0, rule.plan(0)[0], {}, [labeled, skipped])["w"].item() == 1.0


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
