"""Scalars of a run for TensorBoard, MLflow and Weights & Biases, under the same names everywhere.

    site/<site>/<metric>        what a site reports of its training, e.g. site/north/loss/supervised
    server/<metric>             what the server rule reports, e.g. server/mu
    val/<site>/<metric>/<class> validation split, where it was evaluated; val/mean_dice
    round/seconds, round/bytes_up, round/bytes_down
    test/<site>/<metric>/<class> after the last round; test/mean_dice

The step is the number of rounds done. `rounds.jsonl` holds the same values always.
"""

from __future__ import annotations

import contextlib
import importlib
import itertools
import json
import logging
import math
import os
import re
import secrets
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

from fedssl.config import RunConfig, Scalar, flatten
from fedssl.coordinator import Progress
from fedssl.errors import ConfigError
from fedssl.memory import write_atomically
from fedssl.results import RoundRecord, RunFolder
from fedssl.types import SiteInfo

__all__ = ["TRACKERS", "TrackedProgress", "Tracker", "result_scalars", "round_scalars"]

log = logging.getLogger("fedssl")

_BATCH = 100
"""Parameters that MLflow takes in one call."""


class Tracker(Protocol):
    """One place that scalars go to."""

    def log(self, scalars: Mapping[str, float], step: int) -> None:
        """Keep scalars."""

    def close(self) -> None:
        """The run is complete."""


class TrackedProgress:
    """A `Progress` that passes everything on, and scalars to the trackers that `tracking` names.

    A tracker that fails later is dropped with a warning: it must not cost a run.

    Args:
        inner: is told of everything first.
        run: names the trackers.
        folder: the run folder.

    Raises:
        ConfigError: a tracker's package is not installed.
    """

    def __init__(self, inner: Progress, run: RunConfig, folder: Path) -> None:
        self._inner, self._folder = inner, folder
        names = [name for name in run.tracking.split(",") if name]
        self._openers = {name: TRACKERS[name] for name in names}
        for name in names:
            _module(name)
        self._open: dict[str, Tracker] = {}

    def start(self, run: RunConfig, roster: Mapping[str, SiteInfo], round_: int) -> None:
        """Open the trackers; a resumed run goes on after `round_` rounds."""
        self._inner.start(run, roster, round_)
        config = flatten(run)
        for name, opener in self._openers.items():
            self._open[name] = opener(self._folder, config, round_)

    def round_done(self, record: RoundRecord) -> None:
        """Pass on what one round yielded."""
        self._inner.round_done(record)
        scalars = round_scalars(record)
        for name, tracker in list(self._open.items()):
            with self._dropping(name):
                tracker.log(scalars, record.round + 1)

    def finish(self, folder: RunFolder) -> None:
        """Pass on the results, and close the trackers."""
        results = json.loads(folder.results.read_text(encoding="utf-8"))
        scalars = result_scalars(results)
        content = json.dumps([results["rounds"], scalars], sort_keys=True)
        for name, tracker in list(self._open.items()):
            told = self._folder / "tracking" / f"{name}.finished"
            with self._dropping(name):
                # A finished run that is resumed evaluates again; only what is new is told.
                if _text(told) != content:
                    tracker.log(scalars, results["rounds"])
                tracker.close()
                write_atomically(told, content.encode())
        self._inner.finish(folder)

    @contextlib.contextmanager
    def _dropping(self, name: str) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            del self._open[name]
            log.warning("Tracking with %s stops here: %s", name, error)


def round_scalars(record: RoundRecord) -> dict[str, float]:
    """Return what a round yielded, by name; values that are not finite are left out."""
    found: dict[str, float] = {
        "round/seconds": record.seconds,
        "round/bytes_up": float(record.bytes_up),
        "round/bytes_down": float(record.bytes_down),
    }
    found |= {f"server/{key}": number for key, number in record.rule.items()}
    for site, metrics in record.sites.items():
        found |= {f"site/{site}/{key}": number for key, number in metrics.items()}
    for site, result in record.evaluation.items():
        found |= {f"val/{site}/{key}": number for key, number in result.metrics.items()}
    dices = [d for r in record.evaluation.values() if (d := r.mean_dice()) is not None]
    if dices:
        found["val/mean_dice"] = sum(dices) / len(dices)
    return _clean(found)


def result_scalars(results: Mapping[str, Any]) -> dict[str, float]:
    """Return the scalars of a `results.json`, by name."""
    found = {"test/mean_dice": results["mean_dice"]}
    for site, entry in results["sites"].items():
        for metric in ("dice", "hd95", "assd"):
            found |= {f"test/{site}/{metric}/{c}": v for c, v in entry[metric].items()}
        found[f"test/{site}/pseudo_dice"] = entry["pseudo_dice"]
    return _clean({name: number for name, number in found.items() if number is not None})


def _clean(found: Mapping[str, float]) -> dict[str, float]:
    clean: dict[str, float] = {}
    for name, number in found.items():
        if math.isfinite(number):
            # MLflow takes these characters only; one name for all trackers.
            plain = re.sub(r"[^\w./ -]", "_", name)
            others = (f"{plain}_{count}" for count in itertools.count(2))
            while plain in clean:
                plain = next(others)
            clean[plain] = float(number)
    return clean


class TensorBoardTracker:
    """Event files in `<run folder>/tensorboard`.

    Args:
        folder: the run folder.
        config: flat keys of the run.
        rounds_done: steps after this one are replaced.
    """

    def __init__(self, folder: Path, config: Mapping[str, Scalar], rounds_done: int) -> None:
        writer = _module("tensorboard").SummaryWriter
        purge = rounds_done + 1 if rounds_done else None
        self._writer = writer(str(folder / "tensorboard"), purge_step=purge)
        lines = "\n".join(f"    {key} = {value!r}" for key, value in config.items())
        self._writer.add_text("config", lines, rounds_done)

    def log(self, scalars: Mapping[str, float], step: int) -> None:
        """Write scalars and flush."""
        for name, number in scalars.items():
            self._writer.add_scalar(name, number, step)
        self._writer.flush()

    def close(self) -> None:
        """End the file."""
        self._writer.close()


class MlflowTracker:
    """A run of MLflow's experiment `fedssl`.

    It goes to `MLFLOW_TRACKING_URI`, else to the database `mlflow.db` beside the run folder, which
    the runs of one folder share: `mlflow ui --backend-store-uri sqlite:///runs/mlflow.db`.

    Args:
        folder: the run folder.
        config: flat keys of the run.
        rounds_done: unused; the folder's run of MLflow goes on if it has one.
    """

    def __init__(self, folder: Path, config: Mapping[str, Scalar], rounds_done: int) -> None:
        mlflow = _module("mlflow")
        self._entities = importlib.import_module("mlflow.entities")
        uri = os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{folder.parent / 'mlflow.db'}"
        self._client = mlflow.MlflowClient(tracking_uri=uri)
        self._run = _remembered(folder, "mlflow", lambda: self._create(folder, config))

    def _create(self, folder: Path, config: Mapping[str, Scalar]) -> str:
        experiment = self._client.get_experiment_by_name("fedssl")
        if experiment is None:
            artifacts = (folder.parent / "mlflow-artifacts").as_uri()
            number = self._client.create_experiment("fedssl", artifact_location=artifacts)
        else:
            number = experiment.experiment_id
        run = str(self._client.create_run(number, run_name=run_name(folder)).info.run_id)
        entity = self._entities.Param
        params = [entity(key, str(value)) for key, value in config.items() if value != ""]
        for begin in range(0, len(params), _BATCH):
            self._client.log_batch(run, params=params[begin : begin + _BATCH])
        return run

    def log(self, scalars: Mapping[str, float], step: int) -> None:
        """Send scalars in one call."""
        entity, now = self._entities.Metric, int(time.time() * 1000)
        metrics = [entity(name, number, now, step) for name, number in scalars.items()]
        for begin in range(0, len(metrics), 10 * _BATCH):
            self._client.log_batch(self._run, metrics=metrics[begin : begin + 10 * _BATCH])

    def close(self) -> None:
        """Mark the run as finished."""
        self._client.set_terminated(self._run)


def run_name(folder: Path) -> str:
    """Return what tells a run from others: of `set/method/seed0` all parts below `runs`."""
    parts = folder.resolve().parts
    if not re.fullmatch(r"seed\d+", folder.name):
        return folder.name
    return "/".join(parts[parts.index("runs") + 1 :] if "runs" in parts else parts[-3:])


class WandbTracker:
    """A run of the Weights & Biases project `fedssl`, offline in `<run folder>/wandb`.

    `wandb sync` sends it later; `WANDB_MODE=online` sends at once.

    Args:
        folder: the run folder.
        config: flat keys of the run.
        rounds_done: unused; the folder's run goes on under its old id if it has one.
    """

    def __init__(self, folder: Path, config: Mapping[str, Scalar], rounds_done: int) -> None:
        wandb = _module("wandb")
        identifier = _remembered(folder, "wandb", lambda: secrets.token_hex(8))
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", "fedssl"),
            name=run_name(folder),
            id=identifier,
            resume="allow",
            dir=str(folder),
            config=dict(config),
            mode=os.environ.get("WANDB_MODE", "offline"),
            settings={"silent": True, "console": "off"},
        )

    def log(self, scalars: Mapping[str, float], step: int) -> None:
        """Hand scalars to W&B's own process."""
        self._run.log(dict(scalars), step=step)

    def close(self) -> None:
        """End the run; W&B's own process writes what is left before this process ends."""
        self._run.finish()


TRACKERS: Mapping[str, Callable[[Path, Mapping[str, Scalar], int], Tracker]] = {
    "tensorboard": TensorBoardTracker,
    "mlflow": MlflowTracker,
    "wandb": WandbTracker,
}
"""By the name that the key `tracking` takes: (run folder, flat config, rounds done) -> tracker."""


def _module(name: str) -> Any:
    """Import a tracker's package, or say how to get it."""
    path = {"tensorboard": "torch.utils.tensorboard"}.get(name, name)
    try:
        return importlib.import_module(path)
    except ImportError as error:
        raise ConfigError(
            f"Key 'tracking' names {name!r}, but its package is not installed ({error}). Install "
            "it with: pip install 'fedssl[tracking]', or leave it out of 'tracking'."
        ) from None


def _remembered(folder: Path, name: str, make: Callable[[], str]) -> str:
    """Return the tracker's own id of this run; a resumed run keeps it."""
    path = folder / "tracking" / name
    if known := _text(path):
        return known
    identifier = make()
    write_atomically(path, f"{identifier}\n".encode())
    return identifier


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8").strip() if path.is_file() else ""
