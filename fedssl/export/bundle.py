"""A MONAI bundle: configuration, network, weights, the steps around the network, a model card."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final

import numpy as np
import SimpleITK as sitk  # noqa: N813 -- its customary name
from safetensors.torch import save_file

from fedssl.data.fitting import base_channels
from fedssl.data.prepare import PreparePlan
from fedssl.data.readers import read_label
from fedssl.data.sizes import parse_size
from fedssl.errors import ExportError
from fedssl.export.network import to_torchscript
from fedssl.export.vendored import copy_modules, requirements
from fedssl.predict import Trained, predict_folder

__all__ = ["USAGE", "check_bundle", "inference_config", "write_bundle"]

STEPS: Final = "fedssl.export.bundle_steps"
RUNNERS: Final = ("fire", "pytorch-ignite")
ALLOWED: Final = 1e-3
"""Share of pixels that may differ: another number of threads may round a tie the other way."""

USAGE: Final = """\
In this folder:

    python -m monai.bundle run --config_file configs/inference.json --bundle_root . \\
        --dataset_dir <folder of images> --output_dir <new folder for masks>

writes one mask of class indices per image, on the image's own grid. fedssl is not needed: the
network is `models/model.ts` (TorchScript), and `scripts` holds fedssl's own steps before and after
it. `configs/metadata.json` lists what has to be installed. `models/model.safetensors` has the
weights under fedssl's names, to go on training with fedssl."""


def write_bundle(trained: Trained, folder: Path, metadata: dict[str, Any]) -> None:
    """Write the bundle's files, apart from its model card.

    Raises:
        ExportError: a package that a bundle is run with is not installed.
    """
    needed = requirements(STEPS) | {name: _installed(name) for name in RUNNERS}
    metadata["required_packages_version"] = needed
    for name in ("configs", "models", "docs"):
        (folder / name).mkdir(parents=True)
    to_torchscript(trained, folder / "models/model.ts", metadata)
    weights = {k: v.detach().cpu().contiguous() for k, v in trained.model.state_dict().items()}
    save_file(weights, folder / "models/model.safetensors")
    copy_modules(STEPS, folder / "scripts")
    for name, table in (("inference", inference_config(trained)), ("metadata", metadata)):
        text = json.dumps(table, indent=2) + "\n"
        (folder / f"configs/{name}.json").write_text(text, encoding="utf-8")


def inference_config(trained: Trained) -> dict[str, Any]:
    """Return configs/inference.json; its names are those of MONAI's bundle specification."""
    run, task = trained.run, trained.task
    steps = STEPS.replace("fedssl", "scripts", 1)
    plan = PreparePlan.from_run(run, task)
    patch = parse_size(run.patch_size, task, "patch-size")
    return {
        "imports": ["$import torch", f"$from {steps} import image_list"],
        "bundle_root": ".",
        "dataset_dir": "$@bundle_root + '/images'",
        "output_dir": "$@bundle_root + '/masks'",
        "device": "$torch.device('cuda' if torch.cuda.is_available() else 'cpu')",
        "network_def": "$torch.jit.load(@bundle_root + '/models/model.ts', map_location=@device)",
        "network": "$@network_def.eval()",
        "preprocessing": {
            "_target_": "Compose",
            "transforms": [
                {"_target_": f"{steps}.ReadImaged", "mode": task.mode, "channels": task.channels},
                {
                    "_target_": f"{steps}.PrepareImaged",
                    "crop": plan.crop,
                    "image_size": plan.image_size,
                    "target_spacing": plan.target_spacing,
                    "normalise": plan.normalise,
                    "intensity_window": plan.intensity_window,
                },
            ],
        },
        "dataset": {
            "_target_": "Dataset",
            "data": "$image_list(@dataset_dir)",
            "transform": "@preprocessing",
        },
        "dataloader": {"_target_": "DataLoader", "dataset": "@dataset", "batch_size": 1},
        "inferer": {
            "_target_": f"{steps}.CaseInferer",
            "mode": task.mode,
            "patch": patch,
            "stride": trained.model.stride,
            "overlap": run.evaluate.overlap,
            "batch_size": run.batch_size,
        },
        "postprocessing": {
            "_target_": "Compose",
            "transforms": [
                {"_target_": f"{steps}.ToLabeld", "output": trained.seen.output.value},
                {"_target_": f"{steps}.WriteMaskd", "output_dir": "@output_dir"},
            ],
        },
        "evaluator": {
            "_target_": "SupervisedEvaluator",
            "device": "@device",
            "val_data_loader": "@dataloader",
            "network": "@network",
            "inferer": "@inferer",
            "postprocessing": "@postprocessing",
        },
        "run": ["$@evaluator.run()"],
    }


def check_bundle(trained: Trained, folder: Path) -> float:
    """Run the bundle on a random image, as a user would, and compare with fedssl's own mask.

    Returns:
        Share of pixels that differ.

    Raises:
        ExportError: the bundle does not run, or more pixels differ than ties explain.
    """
    with tempfile.TemporaryDirectory() as scratch:
        images, ours, theirs = (Path(scratch) / name for name in ("images", "ours", "theirs"))
        images.mkdir()
        _write_random(trained, images / "random.mha")
        predict_folder(trained, images, ours)
        run_bundle(folder, images, theirs)
        expected = read_label(ours / "random.mha").array
        share = float(np.mean(read_label(theirs / "random.mha").array != expected))
    if share > ALLOWED:
        raise ExportError(
            f"The bundle's mask of a random image differs from the run's in {share:.2%} of the "
            "pixels; nothing was written. Please report this with the run's config.toml."
        )
    return share


def run_bundle(folder: Path, images: Path, out: Path) -> None:
    """Run `python -m monai.bundle run` on a folder of images.

    Raises:
        ExportError: it fails; the message holds the end of what it said.
    """
    command = [sys.executable, "-W", "ignore", "-m", "monai.bundle", "run"]
    command += ["--config_file", "configs/inference.json", "--bundle_root", "."]
    command += ["--dataset_dir", str(images.resolve()), "--output_dir", str(out.resolve())]
    done = subprocess.run(  # noqa: S603 -- our own arguments
        command, cwd=folder, env=os.environ, capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        raise ExportError(f"The bundle does not run: {(done.stderr or done.stdout)[-1500:]}")


def _write_random(trained: Trained, path: Path) -> None:
    """Write an image of noise that is larger than a window and fits no multiple of the stride."""
    task, stride = trained.task, trained.model.stride
    patch = parse_size(trained.run.patch_size, task, "patch-size")
    sides = [side + 3 for side in patch or (2 * stride,) * task.spatial_dims]
    shape = sides if task.spatial_dims == 3 or task.mode == "2d" else [3, *sides]
    channels = base_channels(task)
    rng = np.random.default_rng(0)
    array = rng.normal(100, 20, (*shape, channels) if channels > 1 else shape).astype(np.float32)
    sitk.WriteImage(sitk.GetImageFromArray(array, isVector=channels > 1), str(path))


def _installed(distribution: str) -> str:
    try:
        return version(distribution)
    except PackageNotFoundError:
        raise ExportError(
            f"A bundle is run with {' and '.join(RUNNERS)}, and {distribution} is not installed; "
            "`pip install 'fedssl[export]'` installs them."
        ) from None
