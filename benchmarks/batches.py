"""`python -m benchmarks.batches`: the share of a training step that its batches take.

Settings of experiments/, a round of them at a time; CPU seconds of one thread are counted. A step
is what lies between two batches of one kind: forward, backward, optimizer, and the batches. The
goal is 5 %.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.results_file import write_results
from fedssl import site as site_module
from fedssl.cli.options import flat_keys, read_tables
from fedssl.config import RunConfig
from fedssl.data import augment
from fedssl.data.batches import Batches
from fedssl.loopback import simulate
from fedssl.methods import load_config
from fedssl.results import RoundRecord, RunFolder
from fedssl.types import LabeledBatch, SiteInfo, UnlabeledBatch

GOAL = 0.05
SETTINGS: dict[str, tuple[str, int, dict[str, Any]]] = {
    "lgg-denoise": (
        "experiments/lgg/denoise.toml",
        2,
        {
            "sites": "tcga_cs,tcga_fg",
            "labeled-sites": "tcga_cs",
            "rounds": 3,
            "denoise.warmup-rounds": 1,
            "denoise.refresh": 2,
        },
    ),
    "la-mutual": ("experiments/la/mutual-8-half.toml", 1, {"rounds": 1}),
}
"""Experiment, how many kinds of stages it has, and what differs: how long, at how many sites."""


class _Enough(BaseException):
    """All steps that are wanted were measured."""


@dataclass
class _Clock:
    """CPU seconds: when each batch of a stage began and ended, and what of it was augmentation."""

    steps: int
    kinds: int
    augmenting: float = 0.0
    calls: dict[int, list[tuple[str, float, float, float]]] = field(default_factory=dict)

    def record(self, stage: int, kind: str, make: Callable[[], Any]) -> Any:
        """Time one batch; end the run once every kind of stage has its steps."""
        done = {self.calls[n][0][0] for n in self.calls if self._steps(n) > self.steps}
        if len(done) >= self.kinds:
            raise _Enough
        before, start = self.augmenting, time.thread_time()
        batch = make()
        row = (kind, start, time.thread_time(), self.augmenting - before)
        self.calls.setdefault(stage, []).append(row)
        return batch

    def _steps(self, stage: int) -> int:
        first = self.calls[stage][0][0]
        return sum(row[0] == first for row in self.calls[stage])

    def tables(self) -> Iterator[dict[str, object]]:
        """Yield one row per stage that was measured."""
        for rows in self.calls.values():
            first = rows[0][0]
            starts = [start for kind, start, _, _ in rows if kind == first]
            if len(starts) < 4:
                continue
            # the first step finds cold caches, the last one has no end
            inside = [row for row in rows if starts[1] <= row[1] < starts[-1]]
            steps = len(starts) - 2
            step = (starts[-1] - starts[1]) / steps
            whole = sum(end - start for _, start, end, _ in inside) / steps
            augmenting = sum(row[3] for row in inside) / steps
            yield {
                "batches": "+".join(dict.fromkeys(row[0] for row in inside)),
                "steps": steps,
                "step_ms": round(1e3 * step, 2),
                "assembly_ms": round(1e3 * whole, 2),
                "of_it_augmentation_ms": round(1e3 * augmenting, 2),
                "share": round(whole / step, 4),
                "share_without_augmentation": round((whole - augmenting) / step, 4),
            }


class _Silent:
    """Shows nothing."""

    def start(self, run: RunConfig, roster: Mapping[str, SiteInfo], round_: int) -> None:
        """Do nothing."""

    def round_done(self, record: RoundRecord) -> None:
        """Do nothing."""

    def finish(self, folder: RunFolder) -> None:
        """Do nothing."""


def main() -> None:
    """Measure every setting."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", choices=list(SETTINGS), action="append")
    parser.add_argument("--steps", type=int, default=12)
    given = parser.parse_args()
    rows = {name: measure(name, given.steps) for name in given.only or SETTINGS}
    for name, stages in rows.items():
        for row in stages:
            print(
                f"{name}, {row['batches']}: {row['assembly_ms']} of "
                f"{row['step_ms']} ms, {row['share']:.1%} "
                f"({row['share_without_augmentation']:.1%} without augmentation), goal {GOAL:.0%}"
            )
    print(write_results("batches", rows))


def measure(name: str, steps: int) -> list[dict[str, object]]:
    """Return one row per kind of stage of a setting."""
    path, kinds, changes = SETTINGS[name]
    tables = read_tables(Path(path))
    tables.pop("grid", None)
    more = {"local-steps": steps + 2, "device": "cpu", "tracking": "", "evaluate.every": 0}
    run = load_config({**flat_keys(tables, Path(path).parent), **changes, **more})
    clock = _Clock(steps, kinds)
    with tempfile.TemporaryDirectory() as folder, timed(clock), suppress(_Enough):
        simulate(run, Path(folder), progress=_Silent())
    return list({row["batches"]: row for row in clock.tables()}.values())


@contextmanager
def timed(clock: _Clock) -> Iterator[None]:
    """Let sites draw batches that are timed."""

    class Timed(Batches):
        def next_labeled(self) -> LabeledBatch:
            """Draw and time."""
            make = super().next_labeled
            batch: LabeledBatch = clock.record(self._stage(), "labeled", make)
            return batch

        def next_unlabeled(self) -> UnlabeledBatch:
            """Draw and time."""
            make = super().next_unlabeled
            batch: UnlabeledBatch = clock.record(self._stage(), "unlabeled", make)
            return batch

        def _stage(self) -> int:
            stage = stages.setdefault(id(self), len(stages))
            alive[stage] = self  # an id must not come again
            return stage

    stages: dict[int, int] = {}
    alive: dict[int, Batches] = {}
    kept: list[tuple[Any, str, Any]] = [(site_module, "Batches", Batches)]
    kept += [(augment, n, getattr(augment, n)) for n in ("augment_labeled", "augment_unlabeled")]
    setattr(site_module, "Batches", Timed)  # noqa: B010 -- it is not among the public names
    for module, name, function in kept[1:]:
        setattr(module, name, _counted(clock, function))
    try:
        yield
    finally:
        for module, name, value in kept:
            setattr(module, name, value)


def _counted(clock: _Clock, function: Callable[..., Any]) -> Callable[..., Any]:
    def call(*arguments: Any, **named: Any) -> Any:
        start = time.thread_time()
        try:
            return function(*arguments, **named)
        finally:
            clock.augmenting += time.thread_time() - start

    return call


if __name__ == "__main__":
    main()
