"""The network that makes targets: an average of the student's past, the received one, or itself.

Tarvainen and Valpola, "Mean teachers are better role models", NeurIPS 2017. The decay starts at 0
and grows, `min(1 - 1 / (s + 1), decay)` at step s, as in public re-implementations; s counts the
site's own steps over the whole run.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from typing_extensions import override

from fedssl.config import MethodConfig
from fedssl.functional.averaging import cpu_copy
from fedssl.functional.consistency import probabilities
from fedssl.methods.base import LocalSetup, TrainingData
from fedssl.methods.joint import JointObjective, JointStep
from fedssl.models import SegmentationModel
from fedssl.models.parts import stochastic
from fedssl.types import Arrays, Download

__all__ = [
    "StudentTeacher",
    "Teacher",
    "TeacherConfig",
    "TeacherKind",
    "evaluating",
    "noisy",
]

TeacherKind = Literal["ema", "global", "current"]


class TeacherConfig(MethodConfig):
    """Keys of methods with a teacher."""

    teacher: TeacherKind = Field(
        "ema", description="the site's average over steps, the received weights, or the student"
    )
    ema_decay: float = Field(0.99, ge=0, lt=1, description="largest decay of the average")


class Teacher:
    """A second network at the site; an average survives rounds in the site's memory.

    Its parameters follow the student's as `t + (1 - decay) (w - t)`; buffers are copied. It never
    gets a gradient, and it predicts in eval mode.

    Args:
        setup: the objective's surroundings; its model is the student.
        config: which teacher, and its decay.
    """

    def __init__(self, setup: LocalSetup, config: TeacherConfig) -> None:
        self._setup, self._config = setup, config
        self._step = 0
        self._network: SegmentationModel | None = None

    @property
    def network(self) -> SegmentationModel:
        """The network that makes targets."""
        if self._config.teacher == "current":
            return self._setup.model
        assert self._network is not None, "begin() comes first"
        return self._network

    def begin(self) -> None:
        """Start from the site's memory, or from the received weights at first use."""
        if self._config.teacher == "current":
            return
        self._network = copy.deepcopy(self._setup.model).requires_grad_(False).eval()
        kept = self._setup.memory.load("teacher") if self._config.teacher == "ema" else None
        if kept is not None:
            self._step = int(kept.pop("step"))
            self._network.load_state_dict(kept)

    @torch.no_grad()
    def predict(self, image: Tensor) -> Tensor:
        """Return probabilities [B, O, *S] in eval mode, without gradient."""
        with evaluating(self.network):
            return probabilities(self.network(image).logits, self._setup.task.output)

    @torch.no_grad()
    def mean_of_passes(self, image: Tensor, passes: int, noise: float) -> Tensor:
        """Return the mean probabilities over passes with dropout and input noise."""
        with stochastic(self.network):
            total = torch.zeros(())
            for _ in range(passes):
                logits = self.network(noisy(image, noise)).logits
                total = total.to(logits.device) + probabilities(logits, self._setup.task.output)
        return total / passes

    @torch.no_grad()
    def follow(self) -> None:
        """Move towards the student; after every optimizer step."""
        if self._config.teacher != "ema" or self._network is None:
            return
        decay = min(1 - 1 / (self._step + 1), self._config.ema_decay)
        ours, theirs = self._network, self._setup.model
        averages = [p.data for p in ours.parameters()]
        torch._foreach_lerp_(averages, [p.data for p in theirs.parameters()], 1 - decay)
        for ours_buffer, theirs_buffer in zip(ours.buffers(), theirs.buffers(), strict=True):
            ours_buffer.copy_(theirs_buffer)
        self._step += 1

    def keep(self) -> None:
        """Save an average to the site's memory; at the end of a stage."""
        if self._config.teacher == "ema" and self._network is not None:
            state = cpu_copy(self._network.state_dict())
            self._setup.memory.save("teacher", {**state, "step": torch.tensor(self._step)})


class StudentTeacher(JointObjective):
    """A site of a method with a teacher; its terms are the method's own.

    Attributes:
        teacher: the network that makes targets; it exists in phase 2 only.
    """

    def __init__(self, setup: LocalSetup) -> None:
        self.setup = setup
        assert isinstance(setup.config, TeacherConfig)
        self.step = JointStep(setup)
        self.teacher = Teacher(setup, setup.config)

    @override
    def prepare(self, download: Download, data: TrainingData) -> None:
        self.teacher.begin()

    @override
    def after_step(self) -> None:
        self.teacher.follow()

    @override
    def knowledge(self) -> Arrays:
        self.teacher.keep()  # nothing is uploaded; this is a stage's last call
        return {}


@contextmanager
def evaluating(network: nn.Module) -> Iterator[None]:
    """Put a network into eval mode for a block, and restore its mode after it."""
    training = network.training
    network.eval()
    try:
        yield
    finally:
        network.train(training)


def noisy(image: Tensor, sigma: float) -> Tensor:
    """Return an image plus Gaussian noise, cut at two sigma; no random number is drawn for 0."""
    if sigma == 0:
        return image
    noise = sigma * torch.randn_like(image)
    return image + noise.clamp(-2 * sigma, 2 * sigma)
