"""`mutual`: what a site reports of its decoders, and the alarm when they collapse."""

from __future__ import annotations

import logging

import pytest
import torch
from mutual_steps import always_background, labeled_batch, unlabeled_batch

from fedssl.functional.mutual import MutualLoss, TeacherView
from fedssl.methods.mutual_health import Health
from fedssl.types import (
    Role,
)


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
