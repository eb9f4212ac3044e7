"""metadata.json of an export: what goes in, what comes out, where it is from.

Names follow MONAI's bundle specification; what is fedssl's own stands under `fedssl`.
"""

from __future__ import annotations

from importlib.metadata import version
from typing import Any, Final

import torch

from fedssl import __version__
from fedssl.data.prepare import PreparePlan
from fedssl.data.sizes import parse_size
from fedssl.export.network import example
from fedssl.export.record import RunRecord
from fedssl.functional.averaging import weights_sha256
from fedssl.predict import Trained
from fedssl.types import Output

__all__ = ["UNKNOWN", "describe", "processing", "site_layers"]

UNKNOWN: Final = "one site"
"""Stands for the site whose layers are exported, where nothing names it; names have no space."""

_ORDER = "as stored; volumes are turned so that D, H, W run to superior, posterior and left"


def site_layers(trained: Trained) -> bool:
    """Return whether what the network answers depends on layers that never left their site."""
    private = set(trained.method.parts(trained.model).get("private", ()))
    names, weights = zip(*trained.model.named_parameters(), strict=True)
    image = example(trained).to(trained.device)
    with torch.enable_grad():
        logits = trained.model.decode(trained.model.encode(image)).logits
        # A decoder that only teaches the other stays at its site, too, and is not asked.
        gradients = torch.autograd.grad(logits.sum(), weights, allow_unused=True)
    used = zip(names, gradients, strict=True)
    return any(name in private and gradient is not None for name, gradient in used)


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


def describe(trained: Trained, record: RunRecord, state: str = "") -> dict[str, Any]:
    """Return metadata.json as a table.

    Args:
        trained: the network and its configuration.
        record: of the run.
        state: name of the state directory that private layers were read from; a simulated run
            names it after the site.
    """
    task, classes = trained.task, trained.task.classes
    layers = (state if state in record.sites else UNKNOWN) if site_layers(trained) else None
    mean, sites = _mean_dice(record, layers)
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
        "description": f"Trained by federated learning with the method {trained.method.name!r} "
        f"({trained.method.summary.rstrip('.')}): {_participation(record)}.",
        "authors": "",
        "copyright": "",
        "intended_use": "Research. Not a medical device; not for diagnosis or treatment.",
        "label_classes": indices,
        "eval_metrics": {"mean_dice": mean},
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
            "seed": record.seed,
            "rounds": record.rounds,
            "engine": record.engine,
            "weights_sha256": record.weights_sha256,
            "exported_sha256": weights_sha256(trained.model.state_dict()),
            "layers_of_site": layers,
            "trained_at": record.who("trained"),
            "mean_dice_sites": sites,
            "versions": record.versions,
            "finished": record.finished,
            "processing": processing(trained),
        },
    }


def _participation(record: RunRecord) -> str:
    trained, evaluated = (", ".join(record.who(part)) for part in ("trained", "evaluated only"))
    text = f"trained at {trained or 'no site'}"
    return f"{text}; evaluated only at {evaluated}" if evaluated else text


def _mean_dice(record: RunRecord, layers: str | None) -> tuple[float | None, list[str]]:
    """Return the mean Dice of the exported network, and the sites that it is over.

    Args:
        record: of the run.
        layers: site whose layers the network has; elsewhere it was scored with others.
    """
    if layers is None:
        return record.mean_dice, record.scored
    site = record.sites.get(layers)
    return (site.mean_dice(), [layers]) if site is not None and site.scored else (None, [])
