"""`fedssl export`: one folder, complete and checked, or nothing."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import Any

from fedssl.errors import ExportError
from fedssl.export import bundle, check, network, verify
from fedssl.export.card import model_card
from fedssl.export.metadata import describe
from fedssl.export.record import run_record
from fedssl.predict import Trained, load_trained

__all__ = ["Form", "export_run"]


class Form(StrEnum):
    """What a network is exported to."""

    BUNDLE = "bundle"
    TORCHSCRIPT = "torchscript"
    ONNX = "onnx"


_WHAT = """\
`{file}` maps prepared windows `{input}` [batch, {channels}, {sides}], each side a
multiple of {stride}, to foreground probabilities `{output}` [batch, {classes}, {sides}].
What to do before and after stands below and, for programs, in metadata.json."""


def export_run(run: Path, form: Form, out: Path, *, state: Path | None = None) -> dict[str, Any]:
    """Export a finished run's network, and compare the export with it.

    Args:
        run: run folder.
        form: what to write.
        out: a new folder, or an empty one.
        state: a site's state directory, for methods that keep a part of the network there.

    Returns:
        metadata.json; `fedssl.verified` tells how close the export is.

    Raises:
        CheckpointError: the folder is no finished run.
        ConfigError: its results.json lacks a key.
        ExportError: the folder is taken, a package is missing, or the export is not the same.
    """
    out = out.resolve()
    if out == Path.cwd():  # it is replaced as a whole, which would leave its user in no folder
        raise ExportError(f"{out} is the current folder; give a new one, e.g. --out export.")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ExportError(f"{out} exists already and is not overwritten; give a new folder.")
    trained = load_trained(run, device="cpu", state=state)
    record = run_record(run)
    metadata = describe(trained, record, state.resolve().name if state else "")
    out.parent.mkdir(parents=True, exist_ok=True)
    # A folder beside it: after the checks it takes the name in one step.
    with tempfile.TemporaryDirectory(prefix=f".{out.name}-", dir=out.parent) as scratch:
        folder = Path(scratch) / "export"
        folder.mkdir()
        usage, card = _WRITERS[form](trained, folder, metadata)
        card.write_text(model_card(trained, record, metadata, usage), encoding="utf-8")
        if out.exists():
            out.rmdir()
        shutil.move(folder, out)
    return metadata


def _bundle(trained: Trained, folder: Path, metadata: dict[str, Any]) -> tuple[str, Path]:
    bundle.write_bundle(trained, folder, metadata)
    traced = verify.load_torchscript(folder / "models/model.ts")
    _verified(metadata, probability=verify.require_same(trained, traced, Form.TORCHSCRIPT))
    checked = check.check_bundle(trained, folder)
    _verified(
        metadata,
        prepared=checked.prepared,
        bundle_probability=checked.probability,
        pixels=checked.pixels,
    )
    metadata["fedssl"]["check_mask"] = {"foreground_share": checked.foreground}
    _write_json(folder / "configs/metadata.json", metadata)
    return bundle.USAGE, folder / "docs/README.md"


def _torchscript(trained: Trained, folder: Path, metadata: dict[str, Any]) -> tuple[str, Path]:
    path = folder / "model.ts"
    network.to_torchscript(trained, path, metadata)
    difference = verify.require_same(trained, verify.load_torchscript(path), Form.TORCHSCRIPT)
    return _beside(trained, path, metadata, difference)


def _onnx(trained: Trained, folder: Path, metadata: dict[str, Any]) -> tuple[str, Path]:
    path = folder / "model.onnx"
    network.to_onnx(trained, path, metadata)
    difference = verify.require_same(trained, verify.load_onnx(path), Form.ONNX)
    return _beside(trained, path, metadata, difference)


def _beside(
    trained: Trained, path: Path, metadata: dict[str, Any], difference: float
) -> tuple[str, Path]:
    _verified(metadata, probability=difference)
    _write_json(path.parent / "metadata.json", metadata)
    usage = _WHAT.format(
        file=path.name,
        input=network.INPUT,
        output=network.OUTPUT,
        channels=trained.seen.channels,
        classes=len(trained.task.foreground),
        sides="D, H, W" if trained.task.spatial_dims == 3 else "H, W",
        stride=trained.model.stride,
    )
    return usage, path.parent / "README.md"


def _verified(metadata: dict[str, Any], **differences: float) -> None:
    """Note how close the export came: largest difference, or share of pixels."""
    metadata["fedssl"].setdefault("verified", {}).update(differences)


def _write_json(path: Path, table: dict[str, Any]) -> None:
    path.write_text(json.dumps(table, indent=2) + "\n", encoding="utf-8")


_WRITERS: dict[Form, Callable[[Trained, Path, dict[str, Any]], tuple[str, Path]]] = {
    Form.BUNDLE: _bundle,
    Form.TORCHSCRIPT: _torchscript,
    Form.ONNX: _onnx,
}
