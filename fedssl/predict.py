"""Masks for new images, by the network of a finished run."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from fedssl.config import RunConfig, Scalar
from fedssl.data.cropping import lengths, paste
from fedssl.data.masks import mask_name, write_onto
from fedssl.data.prepare import PreparePlan, cropped, prepare_case
from fedssl.data.sizes import parse_size
from fedssl.data.source import FolderSource
from fedssl.engine import pick_device
from fedssl.errors import CheckpointError, DataError
from fedssl.federation import SiteSpec
from fedssl.functional.labels import foreground_probabilities
from fedssl.inference import label_map, predict_case
from fedssl.memory import FileMemory
from fedssl.methods import METHODS, load_config
from fedssl.methods.base import Method
from fedssl.models import SegmentationModel, channels_last
from fedssl.seeds import derive_seed, seeded
from fedssl.types import Case, Output, Role, Task

__all__ = [
    "Prediction",
    "Trained",
    "foreground",
    "load_trained",
    "predict_folder",
]

LATEST: Final = 2**62
"""A step that comes after every step, to read a site's memory as it was left."""


@dataclass(frozen=True, slots=True)
class Trained:
    """A network and what it was trained for.

    Args:
        model: with weights, on `device`, in eval mode.
        run: the run's configuration.
        method: the run's method.
        task: as users know it.
        seen: as the network sees it; a method may train a nested task as an exclusive one.
        device: where the model is.
    """

    model: SegmentationModel
    run: RunConfig
    method: Method
    task: Task
    seen: Task
    device: torch.device


@dataclass(frozen=True, slots=True)
class Prediction:
    """One mask that was written.

    Args:
        image: image file.
        mask: mask file, of the image's name.
        voxels: class name -> pixels or voxels.
    """

    image: Path
    mask: Path
    voxels: dict[str, int]


def load_trained(folder: Path, *, device: str = "auto", state: Path | None = None) -> Trained:
    """Return the network of a run folder.

    Args:
        folder: holds config.toml, results.json and model.safetensors.
        device: `auto`, `cpu` or `cuda`.
        state: a site's state directory, for methods that keep a part of the network there.

    Raises:
        CheckpointError: the folder is no finished run, or a private part is missing.
    """
    run = _configuration(folder).model_copy(update={"device": device})
    task = _task(folder)
    method = METHODS[run.method]
    seen = method.task(task)
    with seeded(derive_seed(run.seed, "init"), torch.device("cpu")):
        model = method.build_model(run, seen)
    _load(model, method, folder, state)
    where = pick_device(run.device)
    channels_last(model)
    return Trained(model.to(where).eval(), run, method, task, seen, where)


def _configuration(folder: Path) -> RunConfig:
    path = folder / "config.toml"
    if not path.is_file():
        raise CheckpointError(
            f"{folder} is no run folder: it has no config.toml. Give the folder that a run's 'out' "
            "named; it holds config.toml, results.json and model.safetensors."
        )
    try:
        tree = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise CheckpointError(
            f"{path} cannot be read: {error}. Take it from a copy of the run, or run it again."
        ) from None
    flat: dict[str, Scalar] = {}
    for key, value in tree.items():
        flat |= (
            {f"{key}.{k}": v for k, v in value.items()} if isinstance(value, dict) else {key: value}
        )
    return load_config(flat)


def _task(folder: Path) -> Task:
    path = folder / "results.json"
    try:
        fields: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))["task"]
        return Task(
            fields["name"],
            tuple(fields["classes"]),
            fields["mode"],
            Output(fields["output"]),
            int(fields["channels"]),
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(
            f"{path} does not tell the task ({error!r}). Only a finished run can predict or be "
            "exported; --resume finishes an interrupted one."
        ) from None


def _load(model: SegmentationModel, method: Method, folder: Path, state: Path | None) -> None:
    path = folder / "model.safetensors"
    try:
        weights = load_file(path)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(
            f"{path} cannot be read: {error}. It is written at the end of a run: --resume of the "
            "same run writes it anew."
        ) from None
    private = set(method.parts(model).get("private", ()))
    if private:
        memory = FileMemory((state or folder / "none") / "memory", 0, LATEST)
        weights |= memory.load("private") or {}
    missing = sorted(set(model.state_dict()) - set(weights))
    if missing and set(missing) <= private:
        raise CheckpointError(
            f"The method {method.name!r} keeps {len(missing)} arrays at each site (e.g. "
            f"{missing[0]!r}); give the state directory of the site whose images these are."
        )
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:300]
        raise CheckpointError(f"{path} does not fit config.toml: {reason}") from None


def foreground(trained: Trained, image: Tensor) -> Tensor:
    """Return foreground probabilities [F, *S] of a prepared image [C, *S]."""

    def probabilities(x: Tensor) -> list[Tensor]:
        return [foreground_probabilities(trained.model(x).logits, trained.seen.output)]

    run = trained.run
    (prob,) = predict_case(
        probabilities,
        image.to(trained.device),
        trained.seen,
        patch=parse_size(run.patch_size, trained.task, "patch-size"),
        stride=trained.model.stride,
        overlap=run.evaluate.overlap,
        batch_size=run.batch_size,
    )
    return prob


def predict_folder(
    trained: Trained,
    images: Path,
    out: Path,
    *,
    progress: Callable[[Prediction], None] = lambda prediction: None,
) -> list[Prediction]:
    """Write one mask per image, on the image's own grid and in its format.

    A mask holds class indices. The mask of a JPEG picture is a PNG file, since JPEG would change
    its values.

    Args:
        trained: what predicts.
        images: folder of image files.
        out: folder for the masks; made if it does not exist.
        progress: is told of every mask.

    Raises:
        DataError: there are no images, one cannot be read, or a mask exists already.
    """
    source = _source(images, trained.task)
    out.mkdir(parents=True, exist_ok=True)
    targets = [out / mask_name(file.image) for file in source.files]
    taken = [path for path in targets if path.exists()]
    if taken:
        raise DataError(f"{taken[0]} exists already and is not overwritten; give a new folder.")
    written = []
    for index, (case, target) in enumerate(zip(_cases(source), targets, strict=True)):
        label = _label(trained, case)
        write_onto(target, label.numpy(), source.geometry(index))
        counts = torch.bincount(label.flatten().long(), minlength=trained.task.num_classes)
        voxels = dict(zip(trained.task.classes, counts.tolist(), strict=True))
        written.append(Prediction(source.files[index].image, target, voxels))
        progress(written[-1])
    return written


def _source(images: Path, task: Task) -> FolderSource:
    if not images.is_dir():
        raise DataError(f"{images} is no folder; give the folder that holds the images.")
    folder = images.resolve()
    # No masks are looked for: the folder of labels is one that cannot exist.
    options: dict[str, str | int | float | bool] = {"images": folder.name, "labels": ".none"}
    spec = SiteSpec(name="predict", path=str(folder.parent), role=Role.UNLABELED, options=options)
    return FolderSource(spec, task)


def _cases(source: FolderSource) -> Iterator[Case]:
    for index in range(len(source.cases)):
        yield source.read(index)


def _label(trained: Trained, case: Case) -> Tensor:
    """Return the label map [*S] uint8 of a case at its own size."""
    plan = PreparePlan.from_run(trained.run, trained.task)
    box = plan.box_of(case)
    image, _, _ = prepare_case(cropped(case, box), plan)
    prob = foreground(trained, torch.from_numpy(image))
    label = label_map(prob, trained.seen.output, lengths(box)).cpu().numpy()
    return torch.from_numpy(paste(label, box, case.image.shape[1:]))
