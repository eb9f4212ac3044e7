"""Masks for new images, by the network of a finished run."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from fedssl.config import RunConfig, Scalar
from fedssl.data.cropping import lengths, paste
from fedssl.data.masks import mask_name
from fedssl.data.new_images import NewImages, write_whole
from fedssl.data.prepare import PreparePlan, cropped, prepare_case
from fedssl.data.sizes import parse_size
from fedssl.engine import pick_device
from fedssl.errors import CheckpointError, DataError
from fedssl.functional.labels import foreground_probabilities
from fedssl.inference import label_map, predict_case
from fedssl.memory import FileMemory
from fedssl.methods import METHODS, load_config
from fedssl.methods.base import Method
from fedssl.models import SegmentationModel, channels_last
from fedssl.seeds import derive_seed, seeded
from fedssl.types import Case, Output, Task

__all__ = [
    "Prediction",
    "Trained",
    "foreground",
    "load_trained",
    "predict_folder",
]

_REASONS: Final = 5
"""Of so many images that fail the reason is told; the same one may hold for thousands."""
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
    spacing: Sequence[float] | None = None,
    progress: Callable[[Prediction], None] = lambda prediction: None,
    skipped: Callable[[int], None] = lambda count: None,
) -> list[Prediction]:
    """Write one mask per image, on the image's own grid and in its format.

    A mask holds class indices. The mask of a JPEG picture is a PNG file, since JPEG would change
    its values. Nothing is overwritten: an image whose mask exists is passed over. One that cannot
    be read does not keep the others from their masks.

    Args:
        trained: what predicts.
        images: folder of image files.
        out: folder for the masks; made if it does not exist.
        spacing: mm per axis of every image, in the order x, y(, z) of the file; None: what their
            headers say.
        progress: is told of every mask.
        skipped: is told how many masks exist already, if any do.

    Returns:
        The masks that were written now.

    Raises:
        DataError: there are no images, a mask cannot be written, or images cannot be read; then
            all others have their masks.
    """
    source = NewImages(images, trained.task, spacing)
    if out.resolve() == images.resolve():
        raise DataError(f"{out} holds the images themselves; give another folder for the masks.")
    out.mkdir(parents=True, exist_ok=True)
    targets = [out / mask_name(file.image) for file in source.files]
    missing = [index for index, target in enumerate(targets) if not target.exists()]
    if len(missing) < len(targets):
        skipped(len(targets) - len(missing))
    written: list[Prediction] = []
    failed: dict[str, str] = {}
    for index in missing:
        image = source.files[index].image
        try:
            label, geometry = _label(trained, source.read(index), image), source.geometry(index)
        except DataError as error:
            failed[image.name] = str(error)
            continue
        write_whole(targets[index], label.numpy(), geometry)
        counts = torch.bincount(label.flatten().long(), minlength=trained.task.num_classes)
        voxels = dict(zip(trained.task.classes, counts.tolist(), strict=True))
        written.append(Prediction(image, targets[index], voxels))
        progress(written[-1])
    if failed:
        raise _incomplete(failed, len(targets), out)
    return written


def _incomplete(failed: Mapping[str, str], count: int, out: Path) -> DataError:
    """Return the error that names all files, and the reasons of the first ones."""
    lines = [
        f"{len(failed)} of {count} images got no mask; all others have theirs in {out}. Mend "
        "what is listed, then give the command again: it makes only the masks that are missing.",
        *(f"  {name}: {reason}" for name, reason in list(failed.items())[:_REASONS]),
    ]
    if len(failed) > _REASONS:
        lines.append(f"  as well: {', '.join(list(failed)[_REASONS:])}")
    return DataError("\n".join(lines))


def _label(trained: Trained, case: Case, path: Path) -> Tensor:
    """Return the label map [*S] uint8 of a case at its own size."""
    plan = PreparePlan.from_run(trained.run, trained.task)
    if plan.target_spacing is not None and case.distance_unit != "mm":
        raise DataError(
            f"{path} has no spacing in mm, but the network was trained on images of "
            f"{list(plan.target_spacing)} mm. Give --spacing x,y,z: the mm between neighbours "
            "along each axis of the file."
        )
    box = plan.box_of(case)
    image, _, _ = prepare_case(cropped(case, box), plan)
    prob = foreground(trained, torch.from_numpy(image))
    label = label_map(prob, trained.seen.output, lengths(box)).cpu().numpy()
    return torch.from_numpy(paste(label, box, case.image.shape[1:]))
