"""The nouns of fedssl. `Download` and `Upload` are all that ever crosses the network.

Axes in shapes: B batch, C image channels, K classes including background, F foreground classes,
D feature channels, *S space (H, W or D, H, W), T stochastic passes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

import numpy as np
from torch import Tensor

__all__ = [
    "Arrays",
    "Case",
    "Download",
    "LabeledBatch",
    "Losses",
    "Output",
    "Role",
    "SegOutput",
    "SiteInfo",
    "Stage",
    "Task",
    "Term",
    "UnlabeledBatch",
    "Upload",
    "View",
]

Arrays = dict[str, Tensor]
"""Named tensors on the CPU: weights, a method's extras, files in a site's memory."""


class Role(StrEnum):
    """What a site contributes: images with masks, images only, or some of both."""

    LABELED = "labeled"
    UNLABELED = "unlabeled"
    MIXED = "mixed"


class Output(StrEnum):
    """How a network's channels encode classes.

    EXCLUSIVE: softmax over K channels, background first.
    NESTED: one sigmoid per foreground class (F channels); class f+1 lies inside class f.
    """

    EXCLUSIVE = "exclusive"
    NESTED = "nested"


@dataclass(frozen=True, slots=True)
class Task:
    """What is segmented.

    Args:
        name: free text.
        classes: K names, background first; a label map holds indices into it.
        mode: `2d`, `slices`, `2.5d` or `3d`.
        output: channel encoding of the network.
        channels: image channels C that the network sees.
    """

    name: str
    classes: tuple[str, ...]
    mode: str = "2d"
    output: Output = Output.EXCLUSIVE
    channels: int = 1

    @property
    def num_classes(self) -> int:
        """Classes including background (K)."""
        return len(self.classes)

    @property
    def foreground(self) -> tuple[str, ...]:
        """Names of the foreground classes (F)."""
        return self.classes[1:]

    @property
    def out_channels(self) -> int:
        """Output channels of the network: K when exclusive, F when nested."""
        return self.num_classes if self.output == Output.EXCLUSIVE else self.num_classes - 1

    @property
    def spatial_dims(self) -> int:
        """Spatial dimensions of the network's input."""
        return 3 if self.mode == "3d" else 2


@dataclass(frozen=True, slots=True)
class Case:
    """One image as it was read: a 2D picture or a 3D volume.

    Args:
        name: unique within the site; never leaves it.
        subject: whose image it is; a split never cuts a subject.
        image: [C, *S] float32, intensities as stored on disk.
        label: [*S] integer class indices, or None where no mask exists.
        spacing: one value per spatial axis of `image`, in `distance_unit`.
        distance_unit: `mm`, or `pixel` where the physical spacing is unknown.
    """

    name: str
    subject: str
    image: np.ndarray
    label: np.ndarray | None
    spacing: tuple[float, ...]
    distance_unit: str = "mm"


@dataclass(frozen=True, slots=True)
class View:
    """One augmented look at a batch.

    Args:
        image: [B, C, *S] float.
        theta: [B, S, S+1] affine in normalised coordinates that maps output to input positions
            (the convention of `torch.nn.functional.affine_grid`); identity if nothing moved.
    """

    image: Tensor
    theta: Tensor


@dataclass(frozen=True, slots=True)
class LabeledBatch:
    """Samples with masks.

    Args:
        image: [B, C, *S] float, augmented.
        label: [B, *S] int64 class indices, warped with the image.
        case: [B] int64 positions in the site's list of cases.
    """

    image: Tensor
    label: Tensor
    case: Tensor


@dataclass(frozen=True, slots=True)
class UnlabeledBatch:
    """Samples without masks; there is no label field to misuse.

    Args:
        views: `weak` and `strong`; they share their geometry, so their pixels correspond.
        stored: maps that the objective kept in `begin` ([B, M, *S], dtype as stored), warped
            (nearest) with the views.
        case: [B] int64 positions in the site's list of cases.
    """

    views: Mapping[str, View]
    stored: Mapping[str, Tensor]
    case: Tensor


@dataclass(frozen=True, slots=True)
class SegOutput:
    """What a segmentation network returns.

    Args:
        logits: [B, out_channels, *S].
        features: [B, D, *S], the input of the last 1x1 convolution.
    """

    logits: Tensor
    features: Tensor


@dataclass(frozen=True, slots=True)
class Term:
    """One unsupervised loss term, kept per sample so that it can be reweighted.

    Its value is `scale * sum(w * numerator) / (sum(w * denominator) + eps)`, w = 1 unguided.

    Args:
        name: shown in logs.
        numerator: [B] differentiable.
        denominator: [B], no gradient.
        scale: lambda(t), the term's weight in the total loss.
        image: [B, C, *S] the view that the pseudo-label belongs to (for a quality predictor).
        pseudo_mask: [B, F, *S] binary foreground maps of the pseudo-label.
        student_prob: [B, F, *S] differentiable foreground probabilities of the student.
    """

    name: str
    numerator: Tensor
    denominator: Tensor
    scale: float = 1.0
    image: Tensor | None = None
    pseudo_mask: Tensor | None = None
    student_prob: Tensor | None = None


@dataclass(frozen=True, slots=True)
class Losses:
    """What one training step yields before it is reduced to a scalar.

    Both parts empty means that the batch is skipped: no gradient, no optimizer step.
    """

    supervised: Tensor | None = None
    unsupervised: Sequence[Term] = ()


@dataclass(frozen=True, slots=True)
class Stage:
    """One message exchange with some sites.

    Args:
        name: an identifier, e.g. `train` or `prototypes`.
        sites: who takes part, in site order.
        trains: parts of the model that the sites train and return; empty: no training.
        sends: parts of the model that travel to the sites; empty: the same as `trains`.
    """

    name: str
    sites: tuple[str, ...]
    trains: tuple[str, ...] = ()
    sends: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class SiteInfo:
    """What the coordinator knows of a site.

    Args:
        name: site name.
        role: labeled, unlabeled or mixed.
        num_examples: training samples (images, slices or volumes; never batches).
        num_labeled: those among them that have a mask used in training.
    """

    name: str
    role: Role
    num_examples: int
    num_labeled: int


@dataclass(frozen=True, slots=True)
class Download:
    """Coordinator to site: everything that one stage needs.

    Args:
        run: token of the run and attempt; a site's memory is kept per run.
        round: counts from 0.
        stage: name of the stage; `describe` and `evaluate` are reserved.
        site: addressee.
        step: counts the stages of the run; a site's memory is stamped with it.
        weights: parts of the model that this stage needs.
        knowledge: the method's extras, as its `payload` declares them.
        trains: parts to train and return.
        clock: the method's counters (e.g. rounds since warm-up), so that ramps never restart.
        options: small strings and numbers for reserved stages (e.g. split = "test").
    """

    run: str
    round: int
    stage: str
    site: str
    step: int = 0
    weights: Arrays = field(default_factory=dict)
    knowledge: Arrays = field(default_factory=dict)
    trains: tuple[str, ...] = ()
    clock: Mapping[str, float] = field(default_factory=dict)
    options: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Upload:
    """Site to coordinator: everything that leaves a site.

    Args:
        site: sender.
        role: its role.
        round: echo of the download.
        stage: echo of the download.
        num_examples: training samples at the site.
        num_labeled: those with a mask used in training.
        weights: the trained parts; empty when the stage trains nothing.
        knowledge: the method's extras, as its `payload` declares them.
        metrics: sums, counts and means; never one value per case.
        info: strings for `describe` only (fingerprint of the code, versions, classes).
    """

    site: str
    role: Role
    round: int
    stage: str
    num_examples: int = 0
    num_labeled: int = 0
    weights: Arrays = field(default_factory=dict)
    knowledge: Arrays = field(default_factory=dict)
    metrics: Mapping[str, float] = field(default_factory=dict)
    info: Mapping[str, str] = field(default_factory=dict)
