"""`mutual`: the losses of one step, at sites of every role."""

from __future__ import annotations

import math

import pytest
import torch
from mutual_steps import labeled_batch, server_rule, unlabeled_batch

from fedssl.functional.losses import reduce_term
from fedssl.functional.mutual import mutual_loss
from fedssl.methods.mutual_nets import all_outputs
from fedssl.types import (
    Role,
)


def no_dropout(objective):
    objective.setup.model.eval()
    return objective


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
