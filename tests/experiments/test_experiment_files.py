"""Every experiment file: it parses, its method exists, its header tells what it is for."""

from __future__ import annotations

import tomllib
from functools import cache
from pathlib import Path

import pytest

from experiments.grid import Job, is_experiment, jobs_of
from fedssl.config import RunConfig
from fedssl.data.layouts import LAYOUTS
from fedssl.data.synthetic import SYNTHETIC
from fedssl.federation import Federation, load_federation
from fedssl.methods import METHODS, load_config
from fedssl.types import Role

ROOT = Path(__file__).parents[2] / "experiments"
FILES = sorted(ROOT.glob("*/*.toml"))
FEDERATIONS = [p for p in FILES if "task" in tomllib.loads(p.read_text())]
BASES = [p for p in FILES if p.stem.startswith("common")]
EXPERIMENTS = [p for p in FILES if is_experiment(p)]
CHOSEN = ("demo", "la", "lgg", "vessels")
"""Sets in which methods also differ in more than the method: chosen on validation splits."""

SETS = {
    "fundus": (("",), 14),
    "prostate": (("",), 21),
    "la-h5": (("-4", "-8", "-16"), 3),
    "pancreas": (("-6", "-12"), 2),
    "brats": (("-25", "-50"), 2),
    "jsrt": (("-3", "-6", "-12", "-24"), 4),
    "retouch": (("",), 3),
    "skin": (("",), 1),
    "polyps": (("",), 1),
    "hippocampus": (("",), 1),
}
"""Set -> endings of its federation files, and runs of its lower bound with one seed."""


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).with_suffix("").as_posix()


@cache
def jobs(path: Path) -> list[Job]:
    return jobs_of(path, [0])


@cache
def federation_of(source: str, labeled: str) -> Federation:
    return load_federation(RunConfig(federation=source, labeled_sites=labeled))


@pytest.mark.parametrize("path", EXPERIMENTS, ids=name_of)
def test_every_run_of_an_experiment_is_a_valid_configuration(path: Path) -> None:
    for job in jobs(path):
        run = load_config(job.config)
        assert run.method in METHODS
        assert run.method == job.config["method"], "an experiment names its method"
        federation = federation_of(run.federation, run.labeled_sites)
        roles = {site.role for site in federation.sites}
        assert roles & {Role.LABELED, Role.MIXED}, f"{job.name}: nobody has masks"


@pytest.mark.parametrize("path", EXPERIMENTS, ids=name_of)
def test_every_experiment_has_a_header(path: Path) -> None:
    header = "".join(
        line for line in path.read_text().splitlines(keepends=True) if line.startswith("#")
    )
    assert path.read_text().startswith("# ")
    assert path.name in header, "the command"
    for entry in ("# Paper: ", "# Expected: ", "# Command: ", "# Cost: "):
        assert header.count(entry) == 1, f"{path}: the header lacks {entry!r}"


@pytest.mark.parametrize("path", [*BASES, *FEDERATIONS], ids=name_of)
def test_what_several_experiments_share_says_what_it_is(path: Path) -> None:
    assert path.read_text().startswith("# ")


@pytest.mark.parametrize("path", FEDERATIONS, ids=name_of)
def test_every_federation_names_layouts_and_options_that_exist(path: Path) -> None:
    federation = federation_of(str(path), "")
    names = [site.name for site in federation.sites]
    assert len(set(names)) == len(names)
    for site in federation.sites:
        layout = LAYOUTS.get(site.layout)
        assert layout is not None or site.layout == "synthetic", site.layout
        if layout is not None:
            assert set(site.options) <= {*layout.options, "label-values", "split"}
            assert not Path(tomllib.loads(path.read_text())["site"][0]["path"]).is_absolute()


@pytest.mark.parametrize("name", SETS)
def test_each_benchmark_has_its_set(name: str) -> None:
    endings, runs = SETS[name]
    for ending in endings:
        assert ROOT / name / f"federation{ending}.toml" in FEDERATIONS
    assert len(jobs(ROOT / name / "lower.toml")) == runs
    stems = {p.stem for p in EXPERIMENTS if p.parent.name == name}
    assert {"lower", "mutual", "mean_teacher"} <= stems


def test_the_label_counts_are_what_the_file_names_say() -> None:
    for path in FEDERATIONS:
        ending = path.stem.rpartition("-")[2]
        if ending.isdigit():
            (site,) = federation_of(str(path), "").sites
            assert site.role == Role.MIXED
            assert site.labeled == int(ending), path


def test_lower_bound_and_methods_of_a_set_share_everything_but_the_method() -> None:
    for lower in (p for p in EXPERIMENTS if p.stem == "lower"):
        for path in (p for p in EXPERIMENTS if p.parent == lower.parent and p.stem != "upper"):
            if path.parent.name in CHOSEN:
                continue
            assert [j.name.split("/")[2:] for j in jobs(path)] == [
                j.name.split("/")[2:] for j in jobs(lower)
            ], f"{path} has other grid points than its lower bound"
            ours, theirs = jobs(path)[0].config, jobs(lower)[0].config
            own = {k for k in {*ours, *theirs} if ours.get(k) != theirs.get(k)}
            allowed = ("method", *METHODS)
            assert all(
                k.partition(".")[0] in allowed or k == "model.dropout-bottleneck" for k in own
            )


def test_synthetic_sets_name_sites_that_exist() -> None:
    for name in ("synthetic-fundus", "synthetic-prostate"):
        assert name in SYNTHETIC
        for job in jobs(ROOT / name / "denoise.toml"):
            labeled = str(job.config["labeled-sites"]).split(",")
            assert {s.name for s in federation_of(name, "").sites} > set(labeled)
