"""Sizes given as text, and sizes that a network can take."""

from __future__ import annotations

from collections.abc import Sequence

from fedssl.config import RunConfig
from fedssl.errors import ConfigError
from fedssl.types import Task

__all__ = [
    "check_patch",
    "network_multiple",
    "padded_size",
    "parse_size",
    "parse_spacing",
    "parse_window",
]


def parse_size(text: str, task: Task, key: str) -> tuple[int, ...] | None:
    """Return one size per axis of the network's input, in the order (D,) H, W.

    Args:
        text: '' | '96' (all axes) | '96,128' (H, W) | '32,96,128' (D, H, W).
        task: its mode decides how many axes there are.
        key: configuration key, for the message.
    """
    if not text:
        return None
    return tuple(int(size) for size in _per_axis(text, task, key, "sizes"))


def parse_spacing(text: str, task: Task, key: str = "target-spacing") -> tuple[float, ...] | None:
    """Return mm per axis of the network's input, in the order (D,) H, W; None keeps the spacing.

    Raises:
        ConfigError: another number of axes, or a spacing that is not positive.
    """
    if not text:
        return None
    spacing = _per_axis(text, task, key, "spacings")
    if min(spacing) <= 0:
        raise ConfigError(f"Key {key!r} = {text!r}: a spacing is a positive number of mm.")
    return spacing


def parse_window(text: str, key: str = "intensity-window") -> tuple[float, float]:
    """Return the lowest and the highest intensity of a window.

    Raises:
        ConfigError: not two numbers, the first one smaller.
    """
    ends = tuple(float(part) for part in text.split(",") if part)
    if len(ends) != 2 or ends[0] >= ends[1]:
        raise ConfigError(
            f"Key {key!r} = {text!r}: normalise = 'window' needs the lowest and the highest "
            "intensity, e.g. '-125,275'."
        )
    return ends[0], ends[1]


def _per_axis(text: str, task: Task, key: str, what: str) -> tuple[float, ...]:
    numbers = tuple(float(part) for part in text.split(","))
    dims = task.spatial_dims
    if len(numbers) == 1:
        return numbers * dims
    if len(numbers) != dims:
        order = "depth,height,width" if dims == 3 else "height,width"
        raise ConfigError(
            f"Key {key!r} = {text!r} has {len(numbers)} {what}, but mode {task.mode!r} has {dims} "
            f"axes; give one or {order}."
        )
    return numbers


def network_multiple(run: RunConfig) -> int:
    """Return what the sizes of the network's input have to be divisible by."""
    return int(2**run.model.depth)


def padded_size(size: Sequence[int], depth: int) -> tuple[int, ...]:
    """Round every axis up to a multiple of 2 ** depth."""
    multiple = 2**depth
    return tuple(-(-s // multiple) * multiple for s in size)


def check_patch(patch: Sequence[int] | None, run: RunConfig) -> None:
    """Refuse a patch that the network cannot halve `model.depth` times."""
    multiple = network_multiple(run)
    odd = [p for p in patch or () if p % multiple]
    if odd:
        near = max(odd[0] // multiple, 1) * multiple
        raise ConfigError(
            f"Key 'patch-size' = {run.patch_size!r}: {odd[0]} is no multiple of {multiple} = "
            f"2 ** model.depth. Use e.g. {near} or {near + multiple}, or lower model.depth."
        )
