"""A MONAI bundle: configuration, network, weights, the steps around the network, a model card."""

from __future__ import annotations

import json
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Final

from safetensors.torch import save_file

from fedssl.data.prepare import PreparePlan
from fedssl.data.sizes import parse_size
from fedssl.errors import ExportError
from fedssl.export.network import to_torchscript
from fedssl.export.vendored import copy_modules, requirements
from fedssl.predict import Trained

__all__ = ["USAGE", "inference_config", "write_bundle"]

STEPS: Final = "fedssl.export.bundle_steps"
RUNNERS: Final = ("fire", "pytorch-ignite")

USAGE: Final = """\
In this folder:

    python -m monai.bundle run --config_file configs/inference.json --bundle_root . \\
        --dataset_dir <folder of images> --output_dir <new folder for masks>

writes one mask of class indices per image, on the image's own grid; a sub-folder with a DICOM
series is one image. fedssl is not needed: the network is `models/model.ts` (TorchScript), and
`scripts` holds fedssl's own steps before and after it. `configs/metadata.json` lists what has to be
installed. `models/model.safetensors` has the weights under fedssl's names, to go on training with
fedssl."""


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


def _installed(distribution: str) -> str:
    try:
        return version(distribution)
    except PackageNotFoundError:
        raise ExportError(
            f"A bundle is run with {' and '.join(RUNNERS)}, and {distribution} is not installed; "
            "`pip install 'fedssl[export]'` installs them."
        ) from None
