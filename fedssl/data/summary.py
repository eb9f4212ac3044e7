"""What a site tells the coordinator about its data: counts, sums and histograms, nothing else.

No names, no paths, no value of a single case. Histograms have fixed bins; an exact value appears
only if at least `SMALL` cases share it, and histograms with smaller counts are listed as such.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from fedssl.data.facts import CaseFacts, Moments
from fedssl.data.fitting import base_channels
from fedssl.data.histograms import LARGEST_BIN, SMALL, add_counts, length_bin, shared_values
from fedssl.errors import DataError, FederationError
from fedssl.types import Output, Task

__all__ = [
    "AXES",
    "AxisSummary",
    "Intensities",
    "Lengths",
    "Summary",
    "TaskSummary",
    "merge",
    "read_summary",
    "summarise",
    "summary_json",
]

AXES = ("depth", "height", "width")


_Count = Annotated[int, Field(ge=0)]
_LengthBin = Annotated[int, Field(ge=-400, le=400)]
_IntensityBin = Annotated[int, Field(ge=-LARGEST_BIN, le=LARGEST_BIN)]
"""What else a file may hold for such a number is a mistake, or meant to break who reads it."""


class _Table(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class TaskSummary(_Table):
    """What is segmented; `channels` are those of one image, also in mode 2.5d."""

    name: str
    classes: tuple[str, ...]
    mode: Literal["2d", "slices", "2.5d", "3d"]
    output: Output
    channels: _Count


class Lengths(_Table):
    """One length of every case: `bins` counts cases, `shared` exact values of many cases."""

    bins: dict[_LengthBin, _Count] = Field(default_factory=dict)
    shared: dict[str, _Count] = Field(default_factory=dict)


class AxisSummary(_Table):
    """One axis of all cases: voxels, their distance in mm, and both multiplied.

    Distances and extents of cases whose spacing is unknown are left out.
    """

    size: Lengths = Lengths()
    spacing: Lengths = Lengths()
    extent: Lengths = Lengths()


class Intensities(_Table):
    """Voxels of all cases: number, sum, sum of squares, histogram."""

    count: _Count = 0
    total: float = 0.0
    squares: float = 0.0
    bins: dict[_IntensityBin, _Count] = Field(default_factory=dict)


class Summary(_Table):
    """Everything that leaves a site for planning.

    Args:
        schema_: version of this form.
        task: what is segmented.
        cases: images that could be read.
        subjects: whose images they are.
        masks: cases with a mask.
        units: `mm` and `pixel` -> cases.
        axes: by the names in `AXES`; pictures have no depth.
        intensity: of all voxels.
        foreground: of the voxels in any foreground class.
        hounsfield: cases whose intensities look like those of a CT.
        class_voxels: class -> voxels.
        class_cases: class -> cases where it occurs.
        findings: kind of finding -> how many.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)

    schema_: Literal["fedssl.summary/1"] = Field("fedssl.summary/1", alias="schema")
    task: TaskSummary
    cases: int = Field(ge=1)
    subjects: _Count
    masks: _Count
    units: dict[str, _Count]
    axes: dict[str, AxisSummary]
    intensity: Intensities
    foreground: Intensities
    hounsfield: _Count
    class_voxels: dict[str, _Count]
    class_cases: dict[str, _Count]
    findings: dict[str, _Count] = Field(default_factory=dict)

    @property
    def small_counts(self) -> list[str]:
        """Return the histograms of cases that have a bin of fewer than `SMALL` cases."""
        named = {
            f"axes.{axis}.{what}": getattr(table, what).bins
            for axis, table in self.axes.items()
            for what in ("size", "spacing", "extent")
        }
        return [name for name, bins in named.items() if any(n < SMALL for n in bins.values())]


def summarise(
    facts: Sequence[CaseFacts], task: Task, findings: Mapping[str, int] | None = None
) -> Summary:
    """Return the summary of a site's cases.

    Args:
        facts: of the cases that could be read; at least one.
        task: what is segmented.
        findings: kind -> number of findings of a check.

    Raises:
        DataError: there is nothing to summarise.
    """
    if not facts:
        raise DataError("No image could be read, so there is nothing to summarise.")
    seen = [f for f in facts if f.voxels is not None]
    voxels = [f.voxels for f in facts if f.voxels is not None]
    return Summary(
        task=_task(task),
        cases=len(facts),
        subjects=len({f.subject for f in facts}),
        masks=len(seen),
        units=dict(sorted(Counter(f.unit for f in facts).items())),
        axes=_axes(facts),
        intensity=_together([f.image for f in facts]),
        foreground=_together([f.inside for f in facts if f.inside is not None]),
        hounsfield=sum(f.hounsfield for f in facts),
        class_voxels={c: sum(v[k] for v in voxels) for k, c in enumerate(task.classes)},
        class_cases={c: sum(v[k] > 0 for v in voxels) for k, c in enumerate(task.classes)},
        findings=dict(sorted((findings or {}).items())),
    )


def merge(summaries: Sequence[Summary]) -> Summary:
    """Return the summary of all sites together.

    Raises:
        FederationError: there is none, or they are of different tasks.
    """
    if not summaries:
        raise FederationError("There is no summary to plan with.")
    first = summaries[0]
    for other in summaries[1:]:
        for key in ("classes", "mode", "output", "channels"):
            ours, theirs = getattr(first.task, key), getattr(other.task, key)
            if ours != theirs:
                raise FederationError(
                    f"The sites differ in {key}: one has {ours!r}, another {theirs!r}. All sites "
                    "of a federation have the same [task]."
                )
    axes = [name for name in AXES if any(name in s.axes for s in summaries)]
    return Summary(
        task=first.task,
        cases=sum(s.cases for s in summaries),
        subjects=sum(s.subjects for s in summaries),
        masks=sum(s.masks for s in summaries),
        units=_added([s.units for s in summaries]),
        axes={
            name: _merged_axis([s.axes[name] for s in summaries if name in s.axes]) for name in axes
        },
        intensity=_together([s.intensity for s in summaries]),
        foreground=_together([s.foreground for s in summaries]),
        hounsfield=sum(s.hounsfield for s in summaries),
        class_voxels=_added([s.class_voxels for s in summaries]),
        class_cases=_added([s.class_cases for s in summaries]),
        findings=_added([s.findings for s in summaries]),
    )


def summary_json(summary: Summary) -> str:
    """Return the text of a summary file, for people to look through before they send it."""
    table = summary.model_dump(mode="json", by_alias=True)
    return json.dumps({**table, "small_counts": summary.small_counts}, indent=1) + "\n"


def read_summary(path: Path) -> Summary:
    """Read what `summary_json` wrote.

    Raises:
        DataError: unreadable, or no such file.
    """
    try:
        table = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(table, dict):
            table.pop("small_counts", None)
        return Summary.model_validate(table)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}.") from None
    except ValidationError as error:
        item = error.errors()[0]
        where = ".".join(str(part) for part in item["loc"])
        reason = f"{where}: {item['msg']}"
    except (ValueError, RecursionError) as error:
        reason = str(error)
    raise DataError(
        f"{path} is no summary of a site ({reason}). 'fedssl-client check SITE --summary FILE' "
        "writes one."
    )


def _task(task: Task) -> TaskSummary:
    return TaskSummary.model_validate(
        {
            "name": task.name,
            "classes": task.classes,
            "mode": task.mode,
            "output": task.output,
            "channels": base_channels(task),
        }
    )


def _axes(facts: Sequence[CaseFacts]) -> dict[str, AxisSummary]:
    axes = {}
    for place, name in enumerate(reversed(AXES), start=1):
        rows = [f for f in facts if len(f.shape) >= place]
        known = [f for f in rows if f.unit == "mm"]
        if rows:
            axes[name] = AxisSummary(
                size=_lengths([float(f.shape[-place]) for f in rows]),
                spacing=_lengths([f.spacing[-place] for f in known]),
                extent=_lengths([f.shape[-place] * f.spacing[-place] for f in known]),
            )
    return {name: axes[name] for name in AXES if name in axes}


def _lengths(values: Sequence[float]) -> Lengths:
    counted = Counter(length_bin(value) for value in values)
    return Lengths(bins=dict(sorted(counted.items())), shared=shared_values(values))


def _together(moments: Sequence[Moments] | Sequence[Intensities]) -> Intensities:
    return Intensities(
        count=sum(m.count for m in moments),
        total=sum(m.total for m in moments),
        squares=sum(m.squares for m in moments),
        bins=add_counts(m.bins for m in moments),
    )


def _merged_axis(parts: Sequence[AxisSummary]) -> AxisSummary:
    merged = {}
    for what in ("size", "spacing", "extent"):
        own: list[Lengths] = [getattr(part, what) for part in parts]
        shared = _added([part.shared for part in own])
        ordered = {value: shared[value] for value in sorted(shared, key=float)}
        merged[what] = Lengths(bins=add_counts(part.bins for part in own), shared=ordered)
    return AxisSummary(**merged)


def _added(parts: Sequence[Mapping[str, int]]) -> dict[str, int]:
    total: Counter[str] = Counter()
    for part in parts:
        for key, count in part.items():
            total[key] += count
    return dict(total)
