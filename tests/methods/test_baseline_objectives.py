"""What the baselines' objectives have in common: ramp, proximal term and teacher."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from baseline_runs import TASK, local

from fedssl.functional.averaging import cpu_copy
from fedssl.memory import FileMemory
from fedssl.methods import METHODS
from fedssl.methods.joint import JointStep
from fedssl.methods.teacher import Teacher
from fedssl.types import (
    Download,
    Role,
    Term,
    UnlabeledBatch,
    View,
)


def download(since, ramp=4.0, after=8.0):
    clock = {"phase": 2.0, "since": float(since), "ramp": ramp, "after": after}
    return Download("run", 4, "train", "u", clock=clock)


EMPTY = UnlabeledBatch({"weak": View(torch.zeros(1), torch.zeros(1))}, {}, torch.zeros(1))


def test_the_ramp_runs_on_through_the_steps_of_a_round_beside_masks_only(tmp_path):
    for role in (Role.MIXED, Role.UNLABELED):
        found = []
        for since in (0, 1):
            step = JointStep(local(tmp_path, "mean_teacher", role, weight=0.3))
            step.begin(download(since))
            for _ in range(2):
                found.append(step.scale)
                step.losses(None, EMPTY, lambda _: [])
        ramped = [0.3 * math.exp(-5 * (1 - t / 4) ** 2) for t in (0, 0.5, 1, 1.5)]
        assert found == pytest.approx(ramped if role == Role.MIXED else [0.3] * 4)


@pytest.mark.parametrize(
    ("method", "role", "keys", "factor"),
    [
        ("mean_teacher", Role.UNLABELED, {"weight": 0.3}, 0.3),
        ("mean_teacher", Role.MIXED, {"weight": 0.3}, 1.0),
        ("mean_teacher", Role.UNLABELED, {"weight": 15.0}, 1.0),
        ("reference", Role.UNLABELED, {"weight": 0.5}, 0.5),
        ("mutual", Role.UNLABELED, {"unlabeled_lr": 0.2}, 0.2),
        ("mutual", Role.LABELED, {"unlabeled_lr": 0.2}, 1.0),
    ],
)
def test_the_weight_of_a_whole_loss_is_a_factor_of_the_rate(tmp_path, method, role, keys, factor):
    setup = local(tmp_path, method, role, **keys)
    chosen = {Role.UNLABELED: METHODS[method].unlabeled, Role.MIXED: METHODS[method].mixed}
    objective = (chosen.get(role) or METHODS[method].labeled)(setup)
    assert objective.lr_factor() == factor


def test_sgd_scales_the_loss_itself(tmp_path):
    setup = local(tmp_path, "mean_teacher", Role.UNLABELED, weight=0.3)
    setup = replace(setup, run=setup.run.model_copy(update={"optimizer": "sgd"}))
    step = JointStep(setup)
    assert (step.lr_factor, step.scale) == (1.0, 0.3)


def test_the_proximal_term_is_added_to_what_an_unlabeled_site_learns(tmp_path):
    setup = local(tmp_path, "fixmatch", Role.UNLABELED, proximal=2.0)
    step = JointStep(setup)
    step.begin(download(0))
    one = Term("x", torch.ones(1), torch.ones(1))
    assert step.losses(None, EMPTY, lambda _: [one]).supervised.item() == 0
    bias = setup.model.head.bias
    with torch.no_grad():
        bias += 3.0
    penalty = step.losses(None, EMPTY, lambda _: [one]).supervised
    assert penalty.item() == pytest.approx(2.0 / 2 * 9 * len(bias), rel=1e-5)
    assert step.losses(None, EMPTY, lambda _: []).supervised is None


def test_a_teacher_is_the_average_of_the_student_s_past(tmp_path):
    setup = local(tmp_path, "mean_teacher", Role.UNLABELED, ema_decay=0.6)
    teacher = Teacher(setup, setup.config)
    teacher.begin()
    bias = setup.model.head.bias
    start = bias.detach().clone()
    expected, decays = start.clone(), [0.0, 0.5, 0.6, 0.6]
    for step, decay in enumerate(decays):
        with torch.no_grad():
            bias += 1.0
        teacher.follow()
        expected = decay * expected + (1 - decay) * (start + step + 1)
        torch.testing.assert_close(teacher.network.head.bias, expected)
    teacher.keep()
    later = replace(setup, memory=FileMemory(tmp_path / "memory", 5, 8))
    with torch.no_grad():
        bias.zero_()
    again = Teacher(later, setup.config)
    again.begin()
    torch.testing.assert_close(again.network.head.bias, expected)
    again.follow()  # the fifth step, not the first: the decay is not 0
    torch.testing.assert_close(again.network.head.bias, 0.6 * expected)


def test_a_teacher_copies_running_statistics_and_never_learns(tmp_path):
    setup = local(tmp_path, "mean_teacher", Role.UNLABELED)
    network = setup.run.model.model_copy(update={"norm": "batch"})
    run = setup.run.model_copy(update={"model": network})
    model = METHODS["mean_teacher"].build_model(run, TASK)
    setup = replace(setup, model=model)
    teacher = Teacher(setup, setup.config)
    teacher.begin()
    before = cpu_copy(teacher.network.state_dict())
    model.train()(torch.randn(2, 3, 16, 16))
    teacher.predict(torch.randn(2, 3, 16, 16))
    assert all(torch.equal(v, before[k]) for k, v in teacher.network.state_dict().items())
    teacher.follow()
    for ours, theirs in zip(teacher.network.buffers(), model.buffers(), strict=True):
        assert torch.equal(ours, theirs)
    assert not any(p.requires_grad for p in teacher.network.parameters())
    assert model.training


class Unlabeled:
    """A case with a mask and one without, which nothing may be stored for."""

    labeled = (0,)
    unlabeled = (1,)

    def label(self, case):
        assert case in self.labeled
        return torch.zeros(16, 16, dtype=torch.int64)


@pytest.mark.parametrize("method", ["cbafed", "fedmix", "bcp", "fedirm"])
def test_a_labeled_site_leaves_its_images_without_masks_alone(tmp_path, method):
    setup = local(tmp_path, method, Role.LABELED)
    objective = METHODS[method].labeled(setup)
    objective.begin(download(0), Unlabeled())  # would ask for the image, or for what it lacks
    objective.after_step()
    objective.knowledge()
    assert not list(tmp_path.rglob("*.safetensors")), "a teacher that nothing uses"
