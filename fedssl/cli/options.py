"""Options that several subcommands share, and how an error reaches the terminal."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fedssl.config import Scalar
from fedssl.errors import ConfigError, FedsslError, told

if TYPE_CHECKING:
    from fedssl.config import RunConfig

__all__ = [
    "ConfigOption",
    "FederationOption",
    "MethodOption",
    "OutOption",
    "ResumeOption",
    "RoundsOption",
    "SeedOption",
    "SetOption",
    "absolute",
    "collect",
    "flat_keys",
    "friendly_errors",
    "interrupt",
    "parse_assignments",
    "read_experiment",
    "read_tables",
]

FederationOption = Annotated[
    str | None,
    typer.Option("--federation", "-f", help="federation.toml, or a synthetic federation's name."),
]
MethodOption = Annotated[str | None, typer.Option("--method", "-m", help="See `fedssl methods`.")]
RoundsOption = Annotated[int | None, typer.Option("--rounds", "-n", help="Training rounds.")]
SeedOption = Annotated[int | None, typer.Option("--seed", "-s", help="Run seed.")]
OutOption = Annotated[
    Path | None, typer.Option("--out", "-o", help="Run folder; default runs/<time>-<method>.")
]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", help="Any key of the run config, e.g. denoise.warmup-rounds=5."),
]
ConfigOption = Annotated[
    Path | None, typer.Option("--config", "-c", help="TOML file with keys of the run config.")
]
ResumeOption = Annotated[bool, typer.Option("--resume", help="Go on with an interrupted run.")]


@contextmanager
def friendly_errors() -> Iterator[None]:
    """Print a deliberate error, or a disk's, as one message and exit with status 1."""
    try:
        yield
    except (FedsslError, OSError) as error:
        message = told(error)
        if not message:
            raise
        typer.secho(f"Error: {message}", err=True, fg="red")
        raise typer.Exit(1) from None


def read_experiment(path: Path, below: Sequence[Path] = ()) -> dict[str, Scalar]:
    """Read a TOML file of run config keys into flat keys; see `flat_keys`.

    Args:
        path: the file.
        below: files that extend it, directly or by way of others.
    """
    if path.resolve() in below:
        raise ConfigError(f"{path} extends itself. Name another file, or leave 'extends' out.")
    tables = read_tables(path)
    if "grid" in tables:
        raise ConfigError(
            f"{path} has a [grid], which stands for several runs. Start them with "
            f"`python -m experiments.run {path}`."
        )
    return flat_keys(tables, path.parent, (*below, path.resolve()))


def read_tables(path: Path) -> dict[str, Any]:
    """Read a TOML file; raise one `ConfigError` that names it."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}.") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not valid TOML: {error}.") from None


def parse_assignments(pairs: list[str]) -> dict[str, Scalar]:
    """Read `key=value` strings; a value is a TOML scalar, or else a plain string."""
    flat: dict[str, Scalar] = {}
    for pair in pairs:
        key, sep, text = pair.partition("=")
        if not sep or not key.strip():
            raise ConfigError(f"Expected key=value, got {pair!r}, e.g. --set rounds=10.")
        try:
            value = tomllib.loads(f"v = {text}")["v"]
        except tomllib.TOMLDecodeError:
            value = text.strip()
        if not isinstance(value, bool | int | float | str):
            raise ConfigError(f"Key {key.strip()!r} takes one value, got {text!r}.")
        flat[_spelled(key.strip())] = value
    return flat


def _spelled(key: str) -> str:
    """Return a key with hyphens behind its section, so that `local_steps` is `local-steps`.

    Sections keep underscores: methods have them in their names.
    """
    section, dot, name = key.rpartition(".")
    return f"{section}{dot}{name.replace('_', '-')}"


def flat_keys(
    tables: Mapping[str, Any], folder: Path, below: Sequence[Path] = ()
) -> dict[str, Scalar]:
    """Return nested or dotted run config keys as flat ones.

    `extends = "common.toml"` takes the keys of another file first. That file, and `federation` if
    it is a file, are looked up in `folder`.
    """
    flat: dict[str, Scalar] = {}
    if not isinstance(tables.get("extends", ""), str):
        raise ConfigError(
            f"Key 'extends' takes the name of one file, e.g. 'common.toml'; got "
            f"{tables['extends']!r}."
        )
    if "extends" in tables:
        flat = read_experiment(folder / str(tables["extends"]), below)
    for key, value in tables.items():
        if isinstance(value, dict):
            flat |= {_spelled(f"{key}.{name}"): v for name, v in value.items()}
        elif key != "extends":
            flat[_spelled(key)] = value
    beside = folder / str(flat.get("federation", ""))
    if beside.is_file():
        flat["federation"] = str(beside.resolve())
    return flat


def collect(
    federation: str | None,
    method: str | None,
    rounds: int | None,
    seed: int | None,
    config: Path | None,
    assignments: list[str] | None,
) -> dict[str, Scalar]:
    """Return flat keys: the file's, then the options', then --set; later ones win."""
    flat = read_experiment(config) if config else {}
    options = {"federation": federation, "method": method, "rounds": rounds, "seed": seed}
    flat |= {key: value for key, value in options.items() if value is not None}
    flat |= parse_assignments(assignments or [])
    return flat


def absolute(run: RunConfig, out: Path | None) -> tuple[RunConfig, Path]:
    """Return the configuration with absolute paths, and the run folder."""
    import time

    from fedssl.data.synthetic import SYNTHETIC

    chosen = str(out or "") or run.out
    folder = Path(chosen or f"runs/{time.strftime('%Y%m%d-%H%M%S')}-{run.method}").resolve()
    update: dict[str, str] = {"out": str(folder)}
    if run.federation not in SYNTHETIC:
        update["federation"] = str(Path(run.federation).resolve())
    for key in ("data_root", "cache_dir"):
        if getattr(run, key):
            update[key] = str(Path(getattr(run, key)).resolve())
    return run.model_copy(update=update), folder


def interrupt(number: int, frame: object) -> None:
    """Treat a termination like Ctrl-C, so that no process is left behind."""
    raise KeyboardInterrupt
