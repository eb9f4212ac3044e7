"""metadata.json of an export: what goes in, what comes out, where it is from.

Names follow MONAI's bundle specification; what is fedssl's own stands under `fedssl`.
"""

from __future__ import annotations

import json
from importlib.metadata import version
from pathlib import Path
from typing import Any

from fedssl import __version__
from fedssl.data.prepare import PreparePlan
from fedssl.data.sizes import parse_size
from fedssl.errors import CheckpointError
from fedssl.predict import Trained
from fedssl.types import Output

__all__ = ["describe", "processing", "run_results"]

_ORDER = "as stored; volumes are turned so that D, H, W run to superior, posterior and left"


def run_results(folder: Path) -> dict[str, Any]:
    """Return results.json of a finished run.

    Raises:
        CheckpointError: it cannot be read.
    """
    path = folder / "results.json"
    try:
        results: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}.") from None
    return results


def processing(trained: Trained) -> dict[str, Any]:
    """Return what happens to an image before and after the network."""
    run, task = trained.run, trained.task
    plan = PreparePlan.from_run(run, task)
    nested = trained.seen.output == Output.NESTED
    return {
        "orientation": _ORDER,
        "mode": task.mode,
        "crop": plan.crop,
        "image_size": plan.image_size,
        "target_spacing": plan.target_spacing,
        "normalise": plan.normalise,
        "intensity_window": plan.intensity_window,
        "multiple_of": trained.model.stride,
        "padding": "edge values at the ends",
        "window": parse_size(run.patch_size, task, "patch-size"),
        "overlap": run.evaluate.overlap,
        "window_weights": "gaussian",
        "resize_back": "probabilities, linear",
        "decode": "class f + 1 lies inside class f; a pixel is in a class above 0.5"
        if nested
        else "argmax over (1 - sum of the channels, channels...)",
    }


def describe(trained: Trained, results: dict[str, Any]) -> dict[str, Any]:
    """Return metadata.json as a table.

    Args:
        trained: the network and its configuration.
        results: of the run.
    """
    task, classes = trained.task, trained.task.classes
    indices = {str(i): name for i, name in enumerate(classes)}
    volume = task.spatial_dims == 3
    sides = [f"{trained.model.stride}*n"] * task.spatial_dims
    return {
        "version": "1.0.0",
        "changelog": {"1.0.0": f"exported by fedssl {__version__}"},
        "monai_version": version("monai"),
        "pytorch_version": version("torch"),
        "numpy_version": version("numpy"),
        "required_packages_version": {},
        "name": f"{task.name}, {trained.method.name}",
        "task": f"segmentation of {', '.join(task.foreground)}",
        "description": f"Trained by federated learning over {len(results['sites'])} sites with the "
        f"method {trained.method.name!r} ({trained.method.summary.rstrip('.')}).",
        "authors": "",
        "copyright": "",
        "intended_use": "Research. Not a medical device; not for diagnosis or treatment.",
        "label_classes": indices,
        "eval_metrics": {"mean_dice": results["mean_dice"]},
        "network_data_format": {
            "inputs": {
                "image": {
                    "type": "image",
                    "format": "magnitude",
                    "modality": "",
                    "num_channels": trained.seen.channels,
                    "spatial_shape": sides,
                    "dtype": "float32",
                    "value_range": [],
                    "is_patch_data": bool(trained.run.patch_size) or volume,
                    "channel_def": {str(c): f"channel {c}" for c in range(trained.seen.channels)},
                }
            },
            "outputs": {
                "pred": {
                    "type": "probabilities",
                    "format": "segmentation",
                    "num_channels": len(task.foreground),
                    "spatial_shape": sides,
                    "dtype": "float32",
                    "value_range": [0, 1],
                    "is_patch_data": bool(trained.run.patch_size) or volume,
                    "channel_def": {str(c): name for c, name in enumerate(task.foreground)},
                }
            },
        },
        "fedssl": {
            "version": __version__,
            "method": trained.method.name,
            "seed": results["seed"],
            "rounds": results["rounds"],
            "engine": results["engine"],
            "weights_sha256": results["weights_sha256"],
            "versions": results["versions"],
            "finished": results["finished"],
            "processing": processing(trained),
        },
    }
