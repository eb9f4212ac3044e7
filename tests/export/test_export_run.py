"""`fedssl export`: complete folders, a bundle that runs without fedssl, an honest model card."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813 -- its customary name
from networks import trained_run
from typer.testing import CliRunner

from fedssl.cli import app
from fedssl.data.fitting import prepare_image
from fedssl.data.readers import read_image, read_label
from fedssl.errors import CheckpointError, ExportError
from fedssl.export.bundle import write_bundle
from fedssl.export.check import check_bundle
from fedssl.export.metadata import describe
from fedssl.export.record import run_record
from fedssl.export.vendored import closure
from fedssl.export.verify import largest_difference, load_onnx, load_torchscript
from fedssl.export.write import Form, export_run
from fedssl.predict import load_trained, predict_folder

WITHOUT_FEDSSL = """
import runpy, sys
sys.modules["fedssl"] = None  # importing it, or anything in it, fails
sys.argv = ["bundle", "run", "--config_file", "configs/inference.json", "--bundle_root", ".",
            "--dataset_dir", sys.argv[1], "--output_dir", sys.argv[2]]
runpy.run_module("monai.bundle", run_name="__main__")
"""


def run_without_fedssl(bundle: Path, images: Path, masks: Path) -> None:
    """Run a bundle's inference.json in a process that cannot import fedssl."""
    command = [sys.executable, "-W", "ignore", "-c", WITHOUT_FEDSSL, str(images), str(masks)]
    done = subprocess.run(command, cwd=bundle, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]


def write_eyes(folder: Path, count: int) -> None:
    """Write colour pictures of a bright disc, of sizes that fit no network."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for index in range(count):
        size = (30 + index, 41)
        rows, columns = np.mgrid[: size[0], : size[1]]
        away = np.hypot(rows - 15, columns - 18 - index)
        array = rng.integers(0, 60, (*size, 3)) + (150 * (away < 9))[..., None]
        picture = sitk.GetImageFromArray(array.astype(np.uint8), isVector=True)
        sitk.WriteImage(picture, str(folder / f"eye_{index}.png"))


@pytest.fixture(scope="module")
def bundle(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run as a bundle, exported by the command."""
    out = tmp_path_factory.mktemp("bundle") / "eyes"
    result = CliRunner().invoke(app, ["export", str(finished), "--to", "bundle", "--out", str(out)])
    assert result.exit_code == 0, result.output
    assert "from the original on random input" in result.output
    return out


def test_a_bundle_writes_our_masks_where_fedssl_is_not_installed(
    bundle: Path, finished: Path, tmp_path: Path
) -> None:
    write_eyes(tmp_path / "images", 3)
    for companion in ("._eye_0.png", ".DS_Store", "notes.txt"):
        (tmp_path / "images" / companion).write_bytes(b"no image")
    run_without_fedssl(bundle, tmp_path / "images", tmp_path / "theirs")
    predict_folder(load_trained(finished), tmp_path / "images", tmp_path / "ours")
    names = sorted(p.name for p in (tmp_path / "ours").iterdir())
    assert sorted(p.name for p in (tmp_path / "theirs").iterdir()) == names
    values = set()
    for name in names:
        ours = read_label(tmp_path / "ours" / name).array
        assert np.array_equal(read_label(tmp_path / "theirs" / name).array, ours)
        values |= set(np.unique(ours).tolist())
    assert len(values) > 1, "masks of one value would compare equal too easily"


def test_a_bundle_has_the_files_of_monais_specification(bundle: Path) -> None:
    metadata = json.loads((bundle / "configs/metadata.json").read_text())
    required = "version changelog monai_version pytorch_version numpy_version task description "
    required += "authors copyright network_data_format"
    for key in required.split(" "):
        assert key in metadata
    assert set(metadata["required_packages_version"]) >= {"simpleitk", "fire", "pytorch-ignite"}
    data = metadata["network_data_format"]
    assert data["inputs"]["image"]["num_channels"] == 3
    assert data["outputs"]["pred"]["channel_def"] == {"0": "disc", "1": "cup"}
    verified = metadata["fedssl"]["verified"]
    assert (verified["probability"] <= 1e-6, verified["pixels"] <= 1e-3) == (True, True)
    assert max(verified["prepared"], verified["bundle_probability"]) <= 1e-4
    assert 0 < metadata["fedssl"]["check_mask"]["foreground_share"] < 1
    assert (bundle / "docs/README.md").is_file()


def test_a_bundle_holds_no_import_of_fedssl(bundle: Path) -> None:
    sources = sorted((bundle / "scripts").rglob("*.py"))
    assert len(sources) >= len(closure("fedssl.export.bundle_steps"))
    for source in sources:
        lines = source.read_text().splitlines()
        assert not [x for x in lines if x.lstrip().startswith(("import fedssl", "from fedssl"))]


def test_a_bundle_with_other_steps_is_refused(finished: Path, tmp_path: Path) -> None:
    trained = load_trained(finished)
    write_bundle(trained, tmp_path / "b", describe(trained, run_record(finished)))
    config = tmp_path / "b/configs/inference.json"
    assert '"output": "nested"' in config.read_text()
    config.write_text(config.read_text().replace('"output": "nested"', '"output": "exclusive"'))
    with pytest.raises(ExportError, match=r"the mask differs in .* of the pixels"):
        check_bundle(trained, tmp_path / "b")


@pytest.mark.parametrize("form", [Form.TORCHSCRIPT, Form.ONNX])
def test_a_network_comes_with_its_metadata_and_card(
    form: Form, finished: Path, tmp_path: Path
) -> None:
    out = tmp_path / "deep" / "eyes"
    metadata = export_run(finished, form, out)
    name = {"torchscript": "model.ts", "onnx": "model.onnx"}[form]
    assert sorted(p.name for p in out.iterdir()) == sorted([name, "metadata.json", "README.md"])
    assert json.loads((out / "metadata.json").read_text()) == json.loads(json.dumps(metadata))
    results = json.loads((finished / "results.json").read_text())
    assert metadata["fedssl"]["weights_sha256"] == results["weights_sha256"]
    assert metadata["fedssl"]["processing"]["window"] == (16, 16)
    assert [p.name for p in out.parent.iterdir()] == ["eyes"], "nothing else is left behind"


def test_the_card_tells_the_run_and_nothing_of_the_machine(bundle: Path, finished: Path) -> None:
    card = (bundle / "docs/README.md").read_text()
    results = json.loads((finished / "results.json").read_text())
    for name, part in {"north": "trained", "south": "trained", "west": "evaluated only"}.items():
        site = results["sites"][name]
        assert f"| {name} | {site['role']} | {part} |" in card
        assert f"| {name} | cup | {site['cases']} | {site['dice']['cup']:.3f} |" in card
    assert "trained at north, south; evaluated only at west." in card
    assert "Few test cases" in card
    assert results["weights_sha256"] in card
    assert str(finished.parent) not in card
    text = [p.read_text() for p in bundle.rglob("*.json")]
    assert not [t for t in text if str(finished.parent) in t]


def test_nothing_is_overwritten(finished: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("keep")
    with pytest.raises(ExportError, match="exists already"):
        export_run(finished, Form.ONNX, tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["mine.txt"]


def test_the_current_folder_is_refused(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ExportError, match="is the current folder"):
        export_run(finished, Form.ONNX, Path())
    assert not list(tmp_path.iterdir())


def test_a_folder_without_a_finished_run_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"no run folder"):
        export_run(tmp_path, Form.ONNX, tmp_path / "out")


REAL = {
    "retina_vessels": ("stare", "2d", 3, {"image-size": "96,96", "patch-size": "64,64"}),
    "hippocampus_msd": ("vanderbilt", "3d", 1, {"patch-size": "24,24,24"}),
    "lgg_flair_3d": ("tcga_fg", "slices", 1, {"image-size": "64,64"}),
}


@pytest.mark.parametrize("name", REAL)
def test_exports_equal_the_original_on_real_images(
    name: str, real_data: Path, tmp_path: Path
) -> None:
    site, mode, channels, keys = REAL[name]
    federation = tmp_path / "federation.toml"
    classes = ["background", "a", "b"] if mode == "3d" else ["background", "a"]
    federation.write_text(
        f'[task]\nname = "{name}"\nclasses = {classes}\nmode = "{mode}"\nchannels = {channels}\n'
        f'[[site]]\nname = "{site}"\nrole = "labeled"\npath = "{real_data / name / site}"\n'
        "shard = [0, 5]\n"
    )
    steps = {"method": "fedavg", "rounds": 1, "local-steps": 2, **keys}
    run = trained_run(tmp_path, federation, steps)
    images = tmp_path / "images"
    images.mkdir()
    for path in sorted((real_data / name / site / "images").iterdir())[:2]:
        (images / path.name).symlink_to(path)
    export_run(run, Form.BUNDLE, tmp_path / "bundle")
    run_without_fedssl(tmp_path / "bundle", images, tmp_path / "theirs")
    trained = load_trained(run, device="cpu")
    predict_folder(trained, images, tmp_path / "ours")
    for mask in (tmp_path / "ours").iterdir():
        expected = read_label(mask).array
        assert np.array_equal(read_label(tmp_path / "theirs" / mask.name).array, expected)
        assert len(np.unique(expected)) > 1
    _compare_windows(run, images, tmp_path)


def _compare_windows(run: Path, images: Path, folder: Path) -> None:
    """Compare TorchScript and ONNX with the network on a window of a prepared real image."""
    import torch

    trained = load_trained(run, device="cpu")
    export_run(run, Form.ONNX, folder / "onnx")
    picture = read_image(sorted(images.iterdir())[0])
    prepared = torch.from_numpy(prepare_image(picture.array, None))
    if trained.task.mode == "slices":
        prepared = prepared[:, prepared.shape[1] // 2]
    sides = [side - side % trained.model.stride for side in prepared.shape[1:]]
    window = prepared[(slice(None), *(slice(side) for side in sides))][None].contiguous()
    onnx, traced = folder / "onnx/model.onnx", folder / "bundle/models/model.ts"
    assert largest_difference(trained, load_onnx(onnx), window) <= 1e-4
    assert largest_difference(trained, load_torchscript(traced), window) <= 1e-6
