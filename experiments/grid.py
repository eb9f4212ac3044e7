"""From experiment files to runs: one per combination of a `[grid]` and per seed."""

from __future__ import annotations

import contextlib
import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedssl.cli.options import flat_keys, parse_assignments, read_tables
from fedssl.config import Scalar, SplitConfig
from fedssl.errors import ConfigError

__all__ = ["Job", "is_experiment", "jobs_of", "matches"]


@dataclass(frozen=True, slots=True)
class Job:
    """One run.

    Args:
        name: `<set>/<experiment>[/key=value,...][/fold<j>]/seed<k>`, also its folder below the
            results.
        config: flat keys.
    """

    name: str
    config: dict[str, Scalar]


def is_experiment(path: Path) -> bool:
    """Return whether a file stands for runs: no federation, nor what experiments share."""
    return not path.stem.startswith("common") and "task" not in read_tables(path)


def jobs_of(path: Path, seeds: Sequence[int], *, all_folds: bool = False) -> list[Job]:
    """Return the runs of one experiment file.

    Args:
        path: TOML with keys of the run config; `[grid]` maps keys to lists of values. Files that
            `federation` takes in the grid are looked up beside it.
        seeds: run seeds; the split is the same for all of them.
        all_folds: every fold is the test split once, not only the file's own, which keeps its
            folder.

    Raises:
        ConfigError: the file or its grid cannot be read.
    """
    tables = read_tables(path)
    grid = _checked(tables.pop("grid", {}), path)
    base = flat_keys(tables, path.parent)
    stem = [path.resolve().parent.name, path.stem]
    return [
        Job(
            "/".join([*stem, *point, *fold, f"seed{seed}"]),
            {**base, **flat_keys(values, path.parent), **chosen, "seed": seed},
        )
        for point, values in _points(grid)
        for fold, chosen in (_folds(base) if all_folds else [([], {})])
        for seed in seeds
    ]


def matches(job: Job, part: str) -> bool:
    """Return whether a job's name has this part; '' is in every name.

    Args:
        job: a run.
        part: set, experiment, `key=value` or whole grid point, `fold<j>`, `seed<k>`; values as in
            the file or as in the name. Several of them, with `/` in between, have to be in it all.
    """
    # a value may hold a slash itself, so the whole of it is looked for first
    return _has_part(job, part) or all(_has_part(job, one) for one in part.split("/"))


def _has_part(job: Job, part: str) -> bool:
    parts = job.name.split("/")
    wanted = {part, _slug(part), *_as_value(part)}
    return not part or any(wanted & {whole, *whole.split(",")} for whole in parts)


def _folds(base: Mapping[str, Scalar]) -> Iterator[tuple[list[str], dict[str, Scalar]]]:
    """Yield a folder name (or none, for the file's own fold) and the key of each fold."""
    split = SplitConfig.model_validate(
        {key: base[f"split.{key}"] for key in ("fold", "folds") if f"split.{key}" in base}
    )
    for fold in range(split.folds):
        yield [f"fold{fold}"] if fold != split.fold else [], {"split.fold": fold}


def _checked(grid: Any, path: Path) -> dict[str, list[Scalar]]:
    lists: dict[str, Any] = grid if isinstance(grid, dict) else {"": grid}
    for key, values in lists.items():
        if not isinstance(values, list) or not values:
            raise ConfigError(
                f"{path}, [grid]: {key!r} needs a list of values to run, e.g. [0.5, 1.0]; got "
                f"{values!r}."
            )
    return lists


def _points(
    grid: Mapping[str, Sequence[Scalar]],
) -> Iterator[tuple[list[str], dict[str, Scalar]]]:
    """Yield a folder name (or none, without a grid) and the values of each combination."""
    for combination in itertools.product(*grid.values()):
        values = dict(zip(grid, combination, strict=True))
        slugs = [f"{key}={_slug(str(value))}" for key, value in values.items()]
        yield ([",".join(slugs)] if slugs else []), values


def _as_value(part: str) -> Iterator[str]:
    """Yield `key=value` as it is in names where the file spells the value otherwise (1e-3)."""
    with contextlib.suppress(ConfigError):
        for key, value in parse_assignments([part]).items():
            yield _slug(f"{key}={value}")


def _slug(text: str) -> str:
    key, equals, value = text.rpartition("=")
    return f"{key}{equals}{re.sub(r'[^A-Za-z0-9_.+-]', '+', value)}"
