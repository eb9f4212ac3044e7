"""A plan follows from counts and histograms alone, and a run takes it as it is."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest
import torch
from tiny_federations import write_federation
from typer.testing import CliRunner, Result

from fedssl.cli import app
from fedssl.cli.options import read_experiment
from fedssl.data.histograms import length_bin
from fedssl.data.summary import (
    AXES,
    AxisSummary,
    Intensities,
    Lengths,
    Summary,
    TaskSummary,
    summary_json,
)
from fedssl.errors import ConfigError
from fedssl.methods import load_config
from fedssl.models.memory import saved_bytes, training_bytes
from fedssl.models.unet import UNet
from fedssl.plan_file import plan_toml
from fedssl.plan_network import plan_network
from fedssl.planning import derive_plan, parse_memory
from fedssl.types import Output, Task

GB = 10**9


def lengths(*values: float, cases: int = 40) -> Lengths:
    each = cases // len(values)
    bins: dict[int, int] = {}
    for value in values:
        bins[length_bin(value)] = bins.get(length_bin(value), 0) + each
    return Lengths(bins=bins, shared={f"{v:g}": each for v in values})


def summary(
    size: tuple, spacing: tuple | None, *, mode: str = "3d", hounsfield: int = 0, **update
) -> Summary:
    """Return the summary of 40 cases; a length is one number, or a tuple of equally many."""
    axes = {}
    for place, name in enumerate(AXES[-len(size) :]):
        sides = size[place] if isinstance(size[place], tuple) else (size[place],)
        steps = () if spacing is None else (spacing[place],)
        axes[name] = AxisSummary(
            size=lengths(*sides),
            spacing=lengths(*steps) if steps else Lengths(),
            extent=lengths(*(n * s for n in sides for s in steps)) if steps else Lengths(),
        )
    task = TaskSummary(name="t", classes=("b", "f"), mode=mode, output=Output.EXCLUSIVE, channels=1)
    whole = Summary(
        task=task,
        cases=40,
        subjects=40,
        masks=20,
        units={"mm": 40} if spacing else {"pixel": 40},
        axes=axes,
        intensity=Intensities(count=4, bins={-84: 1, 60: 3}),
        foreground=Intensities(count=1000, bins={130: 4, 137: 992, 140: 4}),
        hounsfield=hounsfield,
        class_voxels={"b": 10, "f": 1},
        class_cases={"b": 20, "f": 20},
    )
    return whole.model_copy(update=update)


def test_nearly_cubic_voxels_are_planned_in_3d():
    plan = derive_plan(summary((44, (70, 73), 96), (1.25, 1.25, 1.25)), 8 * GB)
    assert plan.keys["mode"] == "3d"
    assert plan.keys["target-spacing"] == "1.25,1.25,1.25"
    assert plan.keys["normalise"] == "zscore"
    sides = [int(side) for side in str(plan.keys["patch-size"]).split(",")]
    stride = 2 ** int(plan.keys["model.depth"])
    assert all(side % stride == 0 and side // stride >= 4 for side in sides)


def test_slices_far_apart_are_looked_at_with_their_neighbours():
    plan = derive_plan(summary((20, 320, 320), (3.6, 0.6, 0.6)), 8 * GB)
    assert plan.keys["mode"] == "2.5d"
    assert plan.keys["target-spacing"] == "0.6,0.6"
    assert "6.0 times" in plan.reasons["mode"]


def test_slices_at_unknown_distances_are_looked_at_singly():
    plan = derive_plan(summary((30, 128, 128), None, mode="slices"), 8 * GB)
    assert plan.keys["mode"] == "slices"
    assert "target-spacing" not in plan.keys
    assert "image-size" not in plan.keys
    assert plan.keys["patch-size"] == ""  # all are 128 x 128: whole slices


def test_flat_volumes_are_not_planned_in_3d():
    assert derive_plan(summary((9, 64, 64), (2.0, 1.0, 1.0)), 8 * GB).keys["mode"] == "2.5d"


def test_pictures_of_several_sizes_get_one():
    plan = derive_plan(summary(((584, 960), (700, 999)), None, mode="2d"), 8 * GB)
    assert plan.keys["image-size"] == "584,700"  # the lower median
    assert "mode" not in plan.keys
    same = derive_plan(summary((128, 96), None, mode="2d"), 8 * GB)
    assert "image-size" not in same.keys
    assert same.keys["patch-size"] == ""


def test_hounsfield_units_get_the_window_of_the_foreground():
    plan = derive_plan(summary((44, 72, 96), (1.0, 1.0, 1.0), hounsfield=40), 8 * GB)
    assert plan.keys["normalise"] == "window"
    low, high = (float(v) for v in str(plan.keys["intensity-window"]).split(","))
    # bin 137 holds 99.2 % of the foreground: 2 ** (136 / 8 - 10) = 128 and one bin more
    assert low == pytest.approx(128, abs=1)
    assert high == pytest.approx(2**7.125, abs=1)
    some = summary((44, 72, 96), (1.0, 1.0, 1.0), hounsfield=20)
    assert derive_plan(some, 8 * GB).keys["normalise"] == "zscore"


def test_less_memory_means_a_smaller_step_and_at_last_none():
    volumes = summary((128, 128, 128), (1.0, 1.0, 1.0))
    needed = [derive_plan(volumes, memory * GB).needed for memory in (4, 8, 16, 40)]
    assert needed == sorted(needed)
    assert needed[0] < needed[-1]
    assert all(n < m * GB for n, m in zip(needed, (4, 8, 16, 40), strict=True))
    with pytest.raises(ConfigError, match=r"fits into 0\.8 GB"):
        derive_plan(volumes, int(0.76 * GB))


def test_where_no_3d_network_fits_slices_do():
    plan = derive_plan(summary((128, 256, 256), (1.0, 1.0, 1.0)), int(1.2 * GB))
    assert plan.keys["mode"] == "2.5d"
    assert plan.keys["target-spacing"] == "1,1"


@pytest.mark.parametrize(("dims", "shape"), [(2, (2, 1, 32, 48)), (3, (1, 2, 16, 16, 24))])
def test_what_a_forward_pass_keeps_is_measured_without_memory(dims: int, shape: tuple):
    def build() -> UNet:
        return UNet(dims, shape[1], 3, width=4, depth=2)

    with torch.device("meta"):
        weightless = build()
    assert all(p.is_meta for p in weightless.parameters())
    assert saved_bytes(weightless, shape) == saved_bytes(build(), shape)
    weights = 4 * sum(p.numel() for p in build().parameters())
    kept = saved_bytes(build(), shape)
    assert training_bytes(build, shape) == 4 * weights + kept
    assert training_bytes(build, shape, batches=2) == 4 * weights + 2 * kept


def test_the_bytes_of_a_plan_are_those_of_its_network():
    task = Task("t", ("b", "f"), mode="3d")
    plan = plan_network(task, (40, 64, 64), 4 * GB)
    assert plan is not None

    def build() -> UNet:
        return UNet(3, 1, 2, width=plan.width, depth=plan.depth)

    exact = training_bytes(build, (plan.batch, 1, *plan.patch), batches=2)
    assert plan.needed == pytest.approx(exact, rel=0.01)


@pytest.mark.parametrize(
    ("text", "number"), [("8GB", 8e9), ("11 GiB", 11 * 2**30), ("500mb", 5e8), ("1.5G", 1.5e9)]
)
def test_memory_is_written_in_the_usual_ways(text: str, number: float):
    assert parse_memory(text) == number


def test_other_texts_are_no_memory():
    for text in ("", "lots", "8XB", "-1GB", "8", "8B"):
        with pytest.raises(ConfigError, match="no amount of memory"):
            parse_memory(text)


def test_a_plan_is_readable_toml_with_a_reason_for_every_key():
    found = summary((44, 72, 96), (1.25, 1.25, 1.25))
    plan = derive_plan(found, 8 * GB)
    text = plan_toml(plan, found, 3, "/data/federation.toml")
    tables = tomllib.loads(text)
    assert tables["federation"] == "/data/federation.toml"
    assert tables["model"] == {"width": plan.keys["model.width"], "depth": 3}
    assert text.startswith("# A plan for 't': 40 cases of 3 sites, 20 with a mask,")
    for reason in plan.reasons.values():
        assert f"# {reason}\n" in text


def invoke(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["plan", *map(str, arguments)])


def test_summaries_of_hospitals_become_a_plan_that_a_run_takes(tmp_path: Path):
    found = summary((44, 72, 96), (1.25, 1.25, 1.25))
    for name in ("a", "b"):
        (tmp_path / f"{name}.json").write_text(summary_json(found))
    out = tmp_path / "plan.toml"
    both = ["--summary", tmp_path / "a.json", "--summary", tmp_path / "b.json"]
    done = invoke(*both, "--memory", "6GB", "--out", out)
    assert (done.exit_code, done.stderr) == (0, "")
    assert "80 cases of 2 sites" in out.read_text()
    run = load_config(read_experiment(out))
    assert (run.mode, run.target_spacing) == ("3d", "1.25,1.25,1.25")
    own = tmp_path / "own.toml"
    own.write_text('extends = "plan.toml"\nbatch-size = 1\n')
    assert load_config(read_experiment(own)).batch_size == 1
    again = invoke(*both, "--out", out)
    assert again.exit_code == 1
    assert "exists already and may have been edited" in again.stderr


def test_sites_here_are_read_and_the_plan_trains_them(tmp_path: Path):
    federation = write_federation(tmp_path, {"north": "labeled", "west": "unlabeled"}, images=6)
    out = tmp_path / "plan.toml"
    assert invoke(federation, "--out", out).exit_code == 0
    planned = tomllib.loads(out.read_text())
    assert planned["federation"] == str(federation)
    assert planned["patch-size"] == ""  # all are 32 x 32
    keys = ["rounds=1", "local-steps=1", "method=fedavg", "model.width=4", "batch-size=2"]
    keys += ["device=cpu", "tracking=", "evaluate.overlays=0", f"cache-dir={tmp_path / 'cache'}"]
    sets = [part for key in keys for part in ("--set", key)]
    command = ["simulate", "--config", str(out), "--out", str(tmp_path / "run"), *sets]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0, done.output
    used = tomllib.loads((tmp_path / "run/config.toml").read_text())
    assert used["model"]["depth"] == planned["model"]["depth"]
    assert (used["federation"], used["batch-size"]) == (str(federation), 2)


def test_a_plan_needs_sites_or_summaries(tmp_path: Path):
    assert "not both" in invoke().stderr
    bad = tmp_path / "bad.json"
    bad.write_text("{}")
    assert "is no summary of a site" in invoke("--summary", bad).stderr
