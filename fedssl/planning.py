"""One plan for all sites, from counts and histograms: sizes, intensities, mode and network.

The rules follow the self-configuration of nnU-Net (Isensee et al., Nature Methods 18:203-211, 2021)
where they can be computed from aggregates: median spacing and size, a window of intensities for CT,
z-scores elsewhere, the largest patch and network that the memory holds. The thresholds are ours.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from fedssl.config import Scalar
from fedssl.data.histograms import Counts, length_of, quantile
from fedssl.data.sizes import padded_size
from fedssl.data.summary import AXES, Lengths, Summary
from fedssl.errors import ConfigError
from fedssl.plan_network import NetworkPlan, plan_network
from fedssl.types import Task

__all__ = ["Plan", "derive_plan", "parse_memory"]

_ANISOTROPIC = 3.0
"""Slices this many times further apart than pixels are looked at one by one."""

_FEW_SLICES = 16
_MOSTLY = 0.9
_WINDOW = (0.005, 0.995)
_UNITS = {"K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}
_BINARY = {"KI": 2**10, "MI": 2**20, "GI": 2**30, "TI": 2**40}


@dataclass
class Plan:
    """Keys of a run, and why each has its value.

    Args:
        keys: flat run config keys.
        reasons: key -> one sentence.
        memory: bytes that were allowed.
        needed: bytes of weights, optimizer and activations of one step.
    """

    keys: dict[str, Scalar] = field(default_factory=dict)
    reasons: dict[str, str] = field(default_factory=dict)
    memory: int = 0
    needed: int = 0

    def set(self, key: str, value: Scalar, reason: str) -> None:
        """Choose a value."""
        self.keys[key] = value
        self.reasons[key] = reason


@dataclass(frozen=True, slots=True)
class _Space:
    """The median image after resampling.

    Args:
        size: per axis (D,) H, W.
        spacing: in mm of the same axes, or None where it is unknown.
        equal: whether all images have this size.
    """

    size: tuple[int, ...]
    spacing: tuple[float, ...] | None
    equal: bool


def parse_memory(text: str) -> int:
    """Return the bytes that a text such as `8GB`, `11 GiB` or `500MB` stands for.

    Raises:
        ConfigError: it is no such text.
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMGT]I?)B?\s*", text.upper())
    if not match:
        raise ConfigError(f"--memory {text!r} is no amount of memory; write e.g. 8GB or 11GiB.")
    return int(float(match[1]) * {**_UNITS, **_BINARY}[match[2]])


def derive_plan(summary: Summary, memory: int) -> Plan:
    """Return the plan for all sites that a summary stands for.

    Args:
        summary: of all sites together.
        memory: bytes of the smallest machine that trains.

    Raises:
        ConfigError: no network that is worth training fits into the memory.
    """
    plan = Plan(memory=memory)
    space = _space(summary)
    if summary.task.mode == "2d" or len(space.size) == 2:
        mode = "2d"
    else:
        mode, reason = _mode(space)
        network = plan_network(_task(summary, mode), _axes_of(mode, space.size), memory)
        if mode == "3d" and network is None:
            mode, reason = "2.5d", "No 3D network fits into the memory; neighbouring slices help."
        plan.set("mode", mode, reason)
    _plan_size(plan, space, mode, summary)
    _plan_intensities(plan, summary)
    _plan_network(plan, _task(summary, mode), space, memory)
    return plan


def _space(summary: Summary) -> _Space:
    axes = [summary.axes[name] for name in AXES if name in summary.axes]
    known = summary.units.get("pixel", 0) == 0
    if not known:
        equal = all(_one_value(axis.size, summary.cases) for axis in axes)
        return _Space(tuple(round(_median(axis.size)) for axis in axes), None, equal)
    spacing = tuple(_median(axis.spacing) for axis in axes)
    size = tuple(
        max(1, round(_median(axis.extent) / step)) for axis, step in zip(axes, spacing, strict=True)
    )
    equal = all(_one_value(part, summary.cases) for a in axes for part in (a.size, a.spacing))
    return _Space(size, spacing, equal)


def _median(lengths: Lengths) -> float:
    """Return the median: a value that many cases share if one lies in its bin, else the bin's."""
    half, seen = sum(lengths.bins.values()) / 2, 0
    for index in sorted(lengths.bins):
        seen += lengths.bins[index]
        if seen >= half:
            break
    centre = length_of(index)
    near = {float(v): n for v, n in lengths.shared.items() if abs(float(v) / centre - 1) < 0.05}
    return max(near, key=lambda value: near[value]) if near else centre


def _one_value(lengths: Lengths, cases: int) -> bool:
    return max(lengths.shared.values(), default=0) == cases


def _mode(space: _Space) -> tuple[str, str]:
    """Return the mode for volumes and the reason for it."""
    if space.spacing is None:
        return "slices", "The distance between slices is unknown, so they are looked at singly."
    ratio = space.spacing[0] / max(space.spacing[1:])
    if ratio >= _ANISOTROPIC:
        return "2.5d", f"Slices are {ratio:.1f} times further apart than pixels."
    if space.size[0] < _FEW_SLICES:
        return "2.5d", f"Volumes have {space.size[0]} slices only, too few to halve often."
    return "3d", f"Voxels are nearly cubes (slices {ratio:.1f} times further apart than pixels)."


def _axes_of(mode: str, numbers: tuple[int, ...]) -> tuple[int, ...]:
    """Return what concerns the axes of the network's input."""
    return numbers if mode == "3d" else numbers[-2:]


def _task(summary: Summary, mode: str) -> Task:
    told = summary.task
    channels = 3 * told.channels if mode == "2.5d" else told.channels
    return Task(told.name, told.classes, mode, told.output, channels)


def _plan_size(plan: Plan, space: _Space, mode: str, summary: Summary) -> None:
    size = _axes_of(mode, space.size)
    if space.spacing is not None:
        text = ",".join(f"{step:.3g}" for step in space.spacing[-len(size) :])
        plan.set("target-spacing", text, f"Median spacing in mm; {_shown(size)} voxels then.")
    elif mode == "2d" and not space.equal and _spread(summary) > 1:
        text = ",".join(str(side) for side in size)
        reason = "Sizes differ and the scale is unknown; all are resized to the median size."
        plan.set("image-size", text, reason)


def _spread(summary: Summary) -> int:
    """Return the number of bins between the smallest and the largest image of pictures."""
    bins = [summary.axes[name].size.bins for name in ("height", "width")]
    return max(max(b) - min(b) for b in bins)


def _plan_intensities(plan: Plan, summary: Summary) -> None:
    if summary.hounsfield < _MOSTLY * summary.cases:
        plan.set("normalise", "zscore", "Each image by its own mean and deviation.")
        return
    counts: Counts = summary.foreground.bins or summary.intensity.bins
    low, high = (quantile(counts, share) for share in _WINDOW)
    where = "in the foreground" if summary.foreground.bins else "in the images"
    plan.set("normalise", "window", "Hounsfield units mean the same in every image.")
    reason = f"{_WINDOW[0]:.1%} to {_WINDOW[1]:.1%} of the intensities {where}."
    plan.set("intensity-window", f"{round(low)},{round(high)}", reason)


def _plan_network(plan: Plan, task: Task, space: _Space, memory: int) -> None:
    size = _axes_of(task.mode, space.size)
    network = plan_network(task, size, memory)
    if network is None:
        raise ConfigError(
            f"No network for images of {_shown(size)} fits into {memory / 1e9:.1f} GB. Give more "
            "memory, or write a plan by hand: a smaller patch-size, model.width and batch-size."
        )
    whole = padded_size(size, network.depth)
    resized = "image-size" in plan.keys
    if network.patch == whole and (space.equal or resized):
        plan.set("patch-size", "", f"Whole images of {_shown(size)} fit.")
    else:
        reason = f"The largest that fits; images have {_shown(size)}."
        plan.set("patch-size", ",".join(map(str, network.patch)), reason)
    _set_network(plan, network)


def _set_network(plan: Plan, network: NetworkPlan) -> None:
    plan.needed = network.needed
    plan.set("batch-size", network.batch, "Samples in a step, of each kind.")
    plan.set("model.width", network.width, "Channels of the first level.")
    sides = tuple(side // 2**network.depth for side in network.patch)
    plan.set("model.depth", network.depth, f"Halvings; {_shown(sides)} are left at the bottom.")


def _shown(size: tuple[int, ...]) -> str:
    return " x ".join(str(side) for side in size)
