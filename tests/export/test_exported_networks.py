"""TorchScript and ONNX: what they compute is what the network computes, at any size."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from networks import untrained

from fedssl.errors import ExportError
from fedssl.export.network import example, to_onnx, to_torchscript
from fedssl.export.verify import (
    TOLERANCE,
    largest_difference,
    load_onnx,
    load_torchscript,
    require_same,
)
from fedssl.types import Output, Task

NESTED = Task("eyes", ("background", "disc", "cup"), output=Output.NESTED, channels=3)
VOLUME = Task("knees", ("background", "bone", "cartilage"), mode="3d")
SLICES = Task("lungs", ("background", "left", "right"), mode="2.5d", channels=3)

NETWORKS: dict[str, tuple[Task, dict[str, Any]]] = {
    "nested U-Net": (NESTED, {}),
    "volume U-Net, group norm": (VOLUME, {"model.norm": "group"}),
    "2.5D U-Net, batch norm": (SLICES, {"model.norm": "batch"}),
    "two decoders": (NESTED, {"method": "mutual"}),
    "V-Net": (VOLUME, {"method": "mutual", "mutual.network": "vnet", "model.depth": 4}),
    "three decoders": (SLICES, {"method": "mc_net"}),
    "pyramid": (NESTED, {"method": "urpc"}),
    "two networks": (SLICES, {"method": "cps"}),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_torchscript_and_onnx_equal_the_network_at_sizes_never_traced(
    name: str, tmp_path: Path
) -> None:
    task, keys = NETWORKS[name]
    trained = untrained(task, **keys)
    to_torchscript(trained, tmp_path / "m.ts", {})
    to_onnx(trained, tmp_path / "m.onnx", {})
    image = example(trained, batch=3, extra=2, seed=5)
    for form, exported in (
        ("torchscript", load_torchscript(tmp_path / "m.ts")),
        ("onnx", load_onnx(tmp_path / "m.onnx")),
    ):
        assert largest_difference(trained, exported, image) <= TOLERANCE[form]
        prob = exported(image)
        assert prob.shape == (3, 2, *image.shape[2:])
        assert prob.std() > 1e-3, "a constant output would compare equal too easily"


def test_dropout_is_off_in_what_is_exported(tmp_path: Path) -> None:
    trained = untrained(NESTED, **{"model.dropout-bottleneck": 0.9, "model.dropout-head": 0.9})
    to_torchscript(trained, tmp_path / "m.ts", {})
    run = load_torchscript(tmp_path / "m.ts")
    image = example(trained)
    assert torch.equal(run(image), run(image))


def test_a_network_that_differs_is_refused(tmp_path: Path) -> None:
    to_torchscript(untrained(NESTED), tmp_path / "m.ts", {})
    other = untrained(NESTED)
    with torch.no_grad():
        other.model.get_parameter("head.bias").add_(0.01)
    with pytest.raises(ExportError, match=r"differs from the run's by up to .*nothing was written"):
        require_same(other, load_torchscript(tmp_path / "m.ts"), "torchscript")


def test_an_output_that_is_no_number_is_refused() -> None:
    trained = untrained(NESTED)
    with pytest.raises(ExportError, match="differs"):
        require_same(trained, lambda x: torch.full_like(x[:, :2], float("nan")), "onnx")


def test_metadata_travel_inside_the_files(tmp_path: Path) -> None:
    import onnx

    trained = untrained(NESTED)
    to_torchscript(trained, tmp_path / "m.ts", {"name": "eyes"})
    to_onnx(trained, tmp_path / "m.onnx", {"name": "eyes"})
    extra = {"metadata.json": ""}
    torch.jit.load(str(tmp_path / "m.ts"), _extra_files=extra)
    assert json.loads(extra["metadata.json"]) == {"name": "eyes"}
    props = {p.key: p.value for p in onnx.load(str(tmp_path / "m.onnx")).metadata_props}
    assert props == {"name": '"eyes"'}


def test_no_file_names_the_folders_of_the_machine(tmp_path: Path) -> None:
    import zipfile

    trained = untrained(NESTED)
    to_torchscript(trained, tmp_path / "m.ts", {})
    to_onnx(trained, tmp_path / "m.onnx", {})
    home = str(Path(__file__).parents[2]).encode()
    with zipfile.ZipFile(tmp_path / "m.ts") as records:
        assert not [name for name in records.namelist() if home in records.read(name)]
    assert home not in (tmp_path / "m.onnx").read_bytes()
