"""Which methods can be guided, with which keys, and what they keep."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from guided import FUNDUS
from tiny_federations import TINY

from fedssl.errors import ConfigError
from fedssl.methods import METHODS, load_config, method_of
from fedssl.methods.quality import guide
from fedssl.methods.quality_rule import snapshot_rounds


@pytest.mark.parametrize("method", ["denoise", "mutual"])
def test_the_base_network_starts_from_the_weights_that_it_has_without_a_predictor(method):
    keys = {**TINY, "method": method}
    plain, guided = load_config(keys), load_config({**keys, "quality.guide": True})
    models = []
    for run in (plain, guided):
        torch.manual_seed(7)
        models.append(method_of(run).build_model(run, method_of(run).task(FUNDUS)))
    ours, theirs = models[1].state_dict(), models[0].state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    parts = method_of(guided).parts(models[1])
    assert {k: v for k, v in parts.items() if k != "predictor"} == METHODS[method].parts(models[0])
    assert set(parts["predictor"]) == set(ours) - set(theirs)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"method": "fedavg"}, "nothing to guide"),
        ({"quality.predictor-rounds": 0}, "takes 0 of the 4"),
        ({"quality.predictor-rounds": 4}, "takes 4 of the 4"),
        ({"denoise.warmup-rounds": 3}, r"'rounds' = 3.*1 of the run's 4 rounds train"),
        ({"quality.mode": "qar"}, "'denoise' has no proximal term.*'qw' or 'both'"),
        ({"method": "mean_teacher", "quality.mode": "qar"}, "Set 'mean_teacher.proximal' above 0"),
        ({"quality.pretrained": "x.safetensors"}, "for quality.backbone = 'resnet18'"),
        (
            {f"quality.p-{name}": 0 for name in ("identity", "single", "chained", "heavy")}
            | {"quality.p-catastrophic": 0, "quality.p-blob": 0},
            "one besides 'quality.p-cross-image'",
        ),
        ({"quality.gamma": -1}, "'quality.gamma'"),
    ],
)
def test_a_contradiction_is_refused_with_its_reason(keys, message):
    with pytest.raises(ConfigError, match=message):
        load_config({**TINY, "method": "denoise", "quality.guide": True, **keys})


def test_qar_alone_is_allowed_with_a_proximal_term():
    keys = {**TINY, "method": "mean_teacher", "quality.guide": True, "quality.mode": "qar"}
    assert load_config({**keys, "mean_teacher.proximal": 0.01}).quality.mode == "qar"


def test_the_method_quality_is_guided_without_being_told():
    run = load_config({**TINY, "method": "quality"})
    assert method_of(run) is METHODS["quality"]
    assert run.quality.guide is False
    plain = load_config({**TINY, "method": "denoise"})
    assert method_of(plain) is METHODS["denoise"]


def test_guide_keeps_the_roles_that_a_method_has():
    guided = guide(replace(METHODS["denoise"], mixed=None))
    assert guided.mixed is None
    assert guided.unlabeled is not None


def test_snapshots_are_taken_at_shares_of_the_warmup():
    assert snapshot_rounds(100) == [5, 15, 25, 50, 75]
    assert snapshot_rounds(8) == [1, 2, 4, 6]
    assert snapshot_rounds(1) == snapshot_rounds(0) == []
