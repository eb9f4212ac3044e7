"""Does a bundle do to an image what the run does? Both prepare, predict and write the same one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import SimpleITK as sitk  # noqa: N813 -- its customary name
import torch
from torch import Tensor

from fedssl.data.fitting import base_channels
from fedssl.data.prepare import PreparePlan, cropped, prepare_case
from fedssl.data.readers import read_label
from fedssl.data.sizes import parse_size
from fedssl.data.source import FolderSource
from fedssl.errors import ExportError
from fedssl.federation import SiteSpec
from fedssl.predict import Trained, foreground, predict_folder
from fedssl.types import Role

__all__ = ["BundleCheck", "check_bundle", "check_image"]

ROUNDING: Final = 1e-4
"""Of normalised intensities and of probabilities; another process may have other threads."""
TIES: Final = 1e-3
"""Share of pixels that may differ, as rounding can decide between two classes."""
_SPACING: Final = (1.25, 0.9, 0.8)
"""Of D, H, W: in mm, or in units of the target spacing."""
_TURNED: Final = (-1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, -1.0)
_DARK, _BODY, _BALL = 0.01, 0.4, 0.8
_IMAGE: Final = "check.mha"


@dataclass(frozen=True, slots=True)
class BundleCheck:
    """How a bundle's answer differs from the run's.

    Args:
        prepared: largest difference of the prepared images, in normalised intensity.
        probability: largest difference of the foreground probabilities.
        pixels: share of the masks' pixels that differ.
        foreground: share of the run's mask that is foreground; at 0, equal masks say little.
    """

    prepared: float
    probability: float
    pixels: float
    foreground: float


def check_bundle(trained: Trained, folder: Path) -> BundleCheck:
    """Run the bundle on an image, by MONAI's command, and compare with what the run makes of it.

    Raises:
        ExportError: the bundle does not run, or differs by more than rounding.
    """
    with tempfile.TemporaryDirectory() as scratch:
        images, ours, theirs = (
            Path(scratch).resolve() / name for name in ("images", "ours", "theirs")
        )
        images.mkdir()
        sitk.WriteImage(check_image(trained), str(images / _IMAGE))
        prepared, probability = _run_bundle(folder, images, theirs)
        expected = _prepared(trained, images)
        predict_folder(trained, images, ours)
        mask = read_label(ours / _IMAGE).array
        found = BundleCheck(
            prepared=_difference(prepared, expected),
            probability=_difference(probability, foreground(trained, expected)),
            pixels=float(np.mean(read_label(theirs / _IMAGE).array != mask)),
            foreground=float(np.mean(mask > 0)),
        )
    _require_same(found)
    return found


def check_image(trained: Trained) -> sitk.Image:
    """Return an image on which a wrong step shows.

    A bright ball in a body of noise, off the centre of dark surroundings. The body is larger than a
    window and fits no multiple of the stride. Spacings differ, volumes are stored back to front and
    upside down, and intensities lie in the run's window.
    """
    task, plan = trained.task, PreparePlan.from_run(trained.run, trained.task)
    patch = parse_size(trained.run.patch_size, task, "patch-size")
    inner = np.array(patch or (2 * trained.model.stride,) * task.spatial_dims) + 3
    if plan.target_spacing is not None:
        inner = np.ceil(inner / _SPACING[-len(inner) :]).astype(int)
    if task.mode in ("slices", "2.5d"):
        inner = np.array([3, *inner])
    spacing = np.array(_SPACING[-len(inner) :])
    if plan.target_spacing is not None:
        spacing[-len(plan.target_spacing) :] *= plan.target_spacing
    low, high = plan.intensity_window or (0.0, 200.0)
    array = low + (high - low) * _ball(inner, base_channels(task))
    image = sitk.GetImageFromArray(array.astype(np.float32), isVector=True)
    image.SetSpacing([float(s) for s in reversed(spacing)])
    if len(inner) == 3:
        image.SetDirection(_TURNED)
    return image


def _ball(inner: np.ndarray, channels: int) -> np.ndarray:
    """Return [*S, C] in [0, 1]: a ball in a box of sides `inner`, in the dark."""
    rng = np.random.default_rng(0)
    size = 4 * inner // 3 | 1  # odd, so no multiple of a stride
    start = (size - inner) // 3
    places = np.ogrid[tuple(slice(n) for n in size)]
    # Distance from the body's centre per axis: 1 at its faces.
    away = [
        (2 * place - 2 * first + 1) / side - 1
        for place, first, side in zip(places, start, inner, strict=True)
    ]
    body = np.all(np.broadcast_arrays(*[np.abs(a) < 1 for a in away]), axis=0)
    ball = sum(a**2 for a in away) < 0.4
    level = np.where(ball, _BALL, np.where(body, _BODY, _DARK))[..., np.newaxis]
    noise = rng.uniform(-1, 1, (*size, channels))
    array: np.ndarray = level + noise * np.where(body, 0.1, _DARK)[..., np.newaxis]
    return array


def _prepared(trained: Trained, images: Path) -> Tensor:
    """Return the image as the run's network sees it: [C, *S]."""
    options: dict[str, str | int | float | bool] = {"images": images.name, "labels": ".none"}
    spec = SiteSpec(name="check", path=str(images.parent), role=Role.UNLABELED, options=options)
    case = FolderSource(spec, trained.task).read(0)
    plan = PreparePlan.from_run(trained.run, trained.task)
    image, _, _ = prepare_case(cropped(case, plan.box_of(case)), plan)
    return torch.from_numpy(image)


def _run_bundle(folder: Path, images: Path, out: Path) -> tuple[Tensor, Tensor]:
    """Let MONAI run the bundle; return the prepared image [C, *S] and probabilities [F, *S].

    Raises:
        ExportError: it fails; the message holds the end of what it said.
    """
    kept, changes = out.with_suffix(".pt"), out.with_suffix(".json")
    changes.write_text(json.dumps(_changes(folder)), encoding="utf-8")
    command = [sys.executable, "-W", "ignore", "-m", "monai.bundle", "run"]
    command += ["--config_file", str(["configs/inference.json", str(changes)])]
    command += ["--bundle_root", ".", "--dataset_dir", str(images), "--output_dir", str(out)]
    done = subprocess.run(  # noqa: S603 -- our own arguments
        command, cwd=folder, env=os.environ, capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        raise ExportError(f"The bundle does not run: {(done.stderr or done.stdout)[-1500:]}")
    tensors = torch.load(kept, weights_only=True)
    return tensors["image"], tensors["pred"]


def _changes(folder: Path) -> dict[str, object]:
    """Return what the run of a check changes in a bundle: the CPU, and tensors that are kept."""
    config = json.loads((folder / "configs/inference.json").read_text(encoding="utf-8"))
    tensors = "{k: torch.as_tensor(d[k]).cpu() for k in ('image', 'pred')}"
    keep = f"$lambda d: torch.save({tensors}, @output_dir + '.pt') or d"
    steps = [{"_target_": "Lambda", "func": keep}, *config["postprocessing"]["transforms"]]
    return {
        "device": "$torch.device('cpu')",
        "postprocessing": {**config["postprocessing"], "transforms": steps},
    }


def _difference(found: Tensor, expected: Tensor) -> float:
    same = found.shape == expected.shape and bool(torch.isfinite(found).all())
    return float((found - expected).abs().max()) if same else float("inf")


def _require_same(check: BundleCheck) -> None:
    wrong = []
    if not check.prepared <= ROUNDING:
        wrong.append(f"the prepared image differs by up to {check.prepared:.2g}")
    if not check.probability <= ROUNDING:
        wrong.append(f"probabilities differ by up to {check.probability:.2g}")
    if not check.pixels <= TIES:
        wrong.append(f"the mask differs in {check.pixels:.2%} of the pixels")
    if wrong:
        raise ExportError(
            f"The bundle does not do to a test image what the run does: {'; '.join(wrong)}. "
            "Nothing was written. Please report this with the run's config.toml."
        )
