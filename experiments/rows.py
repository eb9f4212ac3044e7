"""Rows of a table: all seeds and folds of one experiment at one point of its grid."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from experiments.finished import Cases, finished_runs
from fedssl.config import Scalar

__all__ = ["Row", "Run", "Tested", "load_rows", "paired_interval"]


class Run(NamedTuple):
    """Which run of an experiment: its seed, and which fold was the test split if not its own."""

    seed: int
    fold: str = ""


class Tested(NamedTuple):
    """One test: seed and fold decide the network and whether the case was tested at all."""

    run: Run
    site: str
    case: str


_UNSCORED: Mapping[str, Any] = {"dice": {}}
"""Stands for a site that is not in a run's results."""


@dataclass(slots=True)
class Row:
    """All seeds and folds of one experiment at one point of its grid.

    Args:
        set: name of the experiments' folder.
        experiment: file stem, e.g. `denoise`.
        point: grid point, e.g. `labeled-sites=hrf`; '' without a grid.
        results: `results.json` by run.
        cases: run -> site -> case -> mean Dice over classes.
        configs: keys that differ from the defaults, by run.
    """

    set: str
    experiment: str
    point: str
    results: dict[Run, dict[str, Any]] = field(default_factory=dict)
    cases: dict[Run, Cases] = field(default_factory=dict)
    configs: dict[Run, Mapping[str, Scalar]] = field(default_factory=dict)

    @property
    def parts(self) -> dict[str, str]:
        """The keys and values of the grid point, as they are spelled in its name."""
        pairs = [part.rpartition("=") for part in self.point.split(",") if part]
        return {key: value for key, _, value in pairs}

    @property
    def seeds(self) -> list[int]:
        """The seeds that ran."""
        return sorted({run.seed for run in self.results})

    @property
    def amount(self) -> str:
        """How many seeds, and how many folds are pooled where it is more than one."""
        folds = len({run.fold for run in self.results})
        whole = len(self.results) == folds * len(self.seeds)
        pooled = f" ({folds} folds)" if whole else f" ({len(self.results)} runs of {folds} folds)"
        return f"{len(self.seeds)}{pooled if folds > 1 else ''}"

    def scored(self) -> list[str]:
        """Return the sites that a table is about: unlabeled, else mixed, else labeled ones.

        Sites without masks have no score and are left out; one that answered in some runs is in.
        """
        entries = [pair for result in self.results.values() for pair in result["sites"].items()]
        scored = {
            role: [s for s, entry in entries if entry["role"] == role and _scores(entry)]
            for role in ("unlabeled", "mixed", "labeled")
        }
        return next((list(dict.fromkeys(names)) for names in scored.values() if names), [])

    def silent(self, sites: Sequence[str]) -> list[tuple[str, Run]]:
        """Return which of these sites have no score in a run, though another run has."""
        return [
            (site, run)
            for site in sites
            for run, result in self.results.items()
            if not _scores(result["sites"].get(site, _UNSCORED)) and self._ever("dice", site)
        ]

    def classes(self, site: str) -> list[str]:
        """Return the foreground classes that were scored at a site."""
        found = [r["sites"][site]["dice"] for r in self.results.values() if site in r["sites"]]
        return list(dict.fromkeys(name for dice in found for name in dice))

    def per_seed(self, metric: str, sites: Sequence[str], class_: str = "") -> list[float]:
        """Return one mean over sites and classes per seed; sites without masks are left out.

        A seed without a site that others have is left out as well: its mean is another one.

        Args:
            metric: `dice`, `hd95` or `assd`.
            sites: which sites.
            class_: this class only; '' for all.
        """
        wanted, means = [site for site in sites if self._ever(metric, site, class_)], []
        for seed in self.seeds:
            results = [result for run, result in self.results.items() if run.seed == seed]
            found = [_pooled(metric, site, results, class_) for site in wanted]
            known = [value for value in found if value is not None]
            if known and len(known) == len(found):
                means.append(sum(known) / len(known))
        return means

    def _ever(self, metric: str, site: str, class_: str = "") -> bool:
        return _pooled(metric, site, list(self.results.values()), class_) is not None

    def units(self, sites: Sequence[str]) -> list[str]:
        """Return the units of the distances that were measured at these sites."""
        entries = [r["sites"][s] for r in self.results.values() for s in sites if s in r["sites"]]
        measured = [e for e in entries if _mean(e["hd95"].values()) is not None]
        return sorted({entry["distance_unit"] for entry in measured})

    def tested(self, sites: Sequence[str]) -> frozenset[Tested]:
        """Return which cases of these sites were tested in which run."""
        return frozenset(
            Tested(run, site, case)
            for run, cases in self.cases.items()
            for site in sites
            for case in cases.get(site, {})
        )

    def case_means(self, tests: Collection[Tested]) -> dict[tuple[str, str], float]:
        """Return Dice per (site, case), averaged over the runs of these tests."""
        collected: dict[tuple[str, str], list[float]] = defaultdict(list)
        for run, site, case in sorted(tests):
            collected[site, case].append(self.cases[run][site][case])
        return {key: sum(v) / len(v) for key, v in collected.items()}

    def difference(
        self, other: Row, sites: Sequence[str], among: Collection[Tested] | None = None
    ) -> tuple[float, float, float]:
        """Return the paired difference from another row over what both tested in the same run.

        Args:
            other: the row that is subtracted.
            sites: whose cases count.
            among: only these tests.
        """
        tests = self.tested(sites) & other.tested(sites)
        tests = tests if among is None else tests & frozenset(among)
        return paired_interval(self.case_means(tests), other.case_means(tests))


def load_rows(*roots: Path) -> list[Row]:
    """Read every finished run below `roots`; of a run that several have, the last one counts.

    Args:
        roots: results folders of experiments.run, or folders of records.

    Raises:
        DataError: one holds no run, or a file is damaged.
    """
    found = {place: run for root in roots for place, run in finished_runs(root).items()}
    rows: dict[tuple[str, str, str], Row] = {}
    for place in sorted(found):
        key = (place.set, place.experiment, place.point)
        row = rows.setdefault(key, Row(*key))
        run = Run(place.seed, place.fold)
        row.results[run], row.cases[run], row.configs[run] = found[place]
    return list(rows.values())


def paired_interval(
    ours: Mapping[tuple[str, str], float],
    theirs: Mapping[tuple[str, str], float],
    *,
    draws: int = 2000,
    seed: int = 0,
) -> tuple[float, float, float]:
    """Return mean paired difference and its 95 % bootstrap interval over cases.

    Sites weigh the same; cases are drawn within each site.
    """
    by_site: dict[str, list[float]] = defaultdict(list)
    for key in sorted(ours.keys() & theirs.keys()):
        by_site[key[0]].append(ours[key] - theirs[key])
    if not by_site:
        return float("nan"), float("nan"), float("nan")
    rng = np.random.default_rng(seed)
    differences = [np.array(v) for v in by_site.values()]
    means = np.mean([rng.choice(d, (draws, len(d))).mean(axis=1) for d in differences], axis=0)
    low, high = np.quantile(means, [0.025, 0.975])
    return float(np.mean([d.mean() for d in differences])), float(low), float(high)


def _scores(entry: Mapping[str, Any]) -> bool:
    return _mean(entry["dice"].values()) is not None


def _pooled(
    metric: str, site: str, results: Sequence[Mapping[str, Any]], class_: str
) -> float | None:
    """Return a site's mean over classes and over the test cases of all folds."""
    entries = [result["sites"][site] for result in results if site in result["sites"]]
    values = [[v for c, v in e[metric].items() if class_ in ("", c)] for e in entries]
    means = [(_mean(v), e["cases"]) for v, e in zip(values, entries, strict=True)]
    known = [(value, cases) for value, cases in means if value is not None]
    total = sum(cases for _, cases in known)
    return sum(value * cases for value, cases in known) / total if total else None


def _mean(values: Iterable[float | None]) -> float | None:
    known = [v for v in values if v is not None and not math.isnan(v)]
    return sum(known) / len(known) if known else None
