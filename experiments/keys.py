"""Keys of runs: which of them decide what is computed, and whether two runs share them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from fedssl.cli.options import read_experiment
from fedssl.config import RunConfig, Scalar, flatten
from fedssl.errors import ConfigError, DataError
from fedssl.methods import METHODS, load_config

__all__ = ["OF_A_MACHINE", "ROOT", "changed_keys", "own_keys", "shared_keys"]

ROOT = Path(__file__).resolve().parents[1]
"""The repository."""

OF_A_MACHINE = frozenset({"out", "cache-dir", "data-root", "resume", "tracking"})
"""Keys that decide where a run's files are, and nothing that it computes."""

_OF_A_ROW = frozenset({"method", "seed", "split.fold"})
"""Keys in which the rows of a table differ on purpose."""


def own_keys(path: Path) -> dict[str, Scalar]:
    """Return the keys of a run's `config.toml` that differ from the defaults.

    Raises:
        DataError: it is missing, damaged, or of another version of fedssl.
    """
    if not path.is_file():
        raise DataError(f"{path} is missing, so nothing tells what was run. Run it again.")
    try:
        flat = read_experiment(path)
        defaults = flatten(load_config({"method": flat.get("method", "")}))
    except ConfigError as error:
        raise DataError(f"{path} is damaged or of another version of fedssl: {error}") from None
    defaults["method"] = RunConfig().method
    return {
        key: _portable(value)
        for key, value in flat.items()
        if key not in OF_A_MACHINE and value != defaults.get(key)
    }


def changed_keys(wanted: Mapping[str, Scalar], path: Path) -> dict[str, tuple[object, object]]:
    """Return where a finished run's `config.toml` differs from what is wanted now.

    Args:
        wanted: flat keys of a job.
        path: the run's configuration.

    Returns:
        Key -> value then and value now; keys of the machine do not count.

    Raises:
        ConfigError: the file is missing, damaged, or of another version of fedssl.
    """
    try:
        then = flatten(load_config(read_experiment(path)))
    except ConfigError as error:
        raise ConfigError(
            f"{path} does not tell what was run there: {error} Give another --out, or move the "
            "folder away to run it again."
        ) from None
    now = flatten(load_config(dict(wanted)))
    for flat in (then, now):  # checkouts lie in different places
        flat["federation"] = Path(str(flat["federation"])).name
    keys = sorted((then.keys() | now.keys()) - OF_A_MACHINE)
    return {k: (then.get(k), now.get(k)) for k in keys if then.get(k) != now.get(k)}


def shared_keys(config: Mapping[str, Scalar], point: Mapping[str, str]) -> dict[str, Scalar]:
    """Return the keys that rows of a table should share: none of a method, grid, seed or fold.

    Args:
        config: keys that differ from the defaults.
        point: keys of the grid.
    """
    return {
        key: value
        for key, value in config.items()
        if key not in _OF_A_ROW and key not in point and key.partition(".")[0] not in METHODS
    }


def _portable(value: Scalar) -> Scalar:
    """Return a path relative to the repository; of a file that it does not have, only the name.

    A run of another checkout has the same files at another place.
    """
    if not isinstance(value, str) or not Path(value).is_absolute():
        return value
    path = Path(value)
    if path.is_relative_to(ROOT):
        return path.relative_to(ROOT).as_posix()
    tails = (Path(*path.parts[start:]) for start in range(1, len(path.parts) - 1))
    return next((tail.as_posix() for tail in tails if (ROOT / tail).is_file()), path.name)
