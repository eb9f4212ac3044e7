"""The four real sets: each passes check and prepare, and one round trains on it."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from typer.testing import CliRunner

from clients.cli import app
from fedssl.cli import app as coordinator

CASES = 4


@dataclass(frozen=True)
class RealSet:
    """A real set in small: a few cases, a tiny network."""

    folder: str
    sites: tuple[str, ...]
    task: str
    keys: dict[str, str]
    spacing: str = "header"
    classes: tuple[str, ...] = field(default=("background", "foreground"))


VESSELS = RealSet(
    "retina_vessels",
    ("stare", "chase_db1"),
    'mode = "2d"\nchannels = 3',
    {"image-size": "96,96", "patch-size": "64"},
    "unknown",
)
LGG = ("lgg_flair_3d", ("tcga_cs", "tcga_ht"))
SETS = {
    "colour pictures": VESSELS,
    "slices": RealSet(*LGG, 'mode = "slices"', {"image-size": "48"}, "unknown"),
    "slices and neighbours": RealSet(*LGG, 'mode = "2.5d"', {"image-size": "48"}, "unknown"),
    "volumes": RealSet(
        "la_2018_half",
        ("utah",),
        'mode = "3d"',
        {"target-spacing": "5,2.5,2.5", "patch-size": "8,16,16"},
    ),
    "volumes of several classes": RealSet(
        "hippocampus_msd",
        ("vanderbilt",),
        'mode = "3d"',
        {"patch-size": "16"},
        classes=("background", "anterior", "posterior"),
    ),
}


def miniature(chosen: RealSet, real_data: Path, folder: Path) -> Path:
    """Link a few cases of each site, and describe them in a federation file."""
    text = f'[task]\nname = "t"\nclasses = {json.dumps(chosen.classes)}\n{chosen.task}\n'
    for number, site in enumerate(chosen.sites):
        source = real_data / chosen.folder / site
        for part in ("images", "labels"):
            (folder / site / part).mkdir(parents=True)
            for path in sorted((source / part).iterdir())[:CASES]:
                (folder / site / part / path.name).symlink_to(path)
        role = 'role = "unlabeled"' if number else 'role = "labeled"'
        if len(chosen.sites) == 1:
            role = 'role = "mixed"\nlabeled = 1'
        text += f'[[site]]\nname = "{site}"\npath = "{site}"\n{role}\n'
        text += f'spacing = "{chosen.spacing}"\n'
    (folder / "index.csv").symlink_to(real_data / chosen.folder / "index.csv")
    path = folder / "federation.toml"
    path.write_text(text)
    return path


@pytest.mark.parametrize("name", SETS)
def test_a_real_set_is_checked_prepared_and_trained_on(
    name: str, real_data: Path, tmp_path: Path
) -> None:
    chosen = SETS[name]
    federation = miniature(chosen, real_data, tmp_path)
    checked = CliRunner().invoke(app, ["check", str(federation), "--json"])
    report = json.loads(checked.stdout)
    assert checked.exit_code == 0, report
    assert [site["readable"] for site in report["sites"]] == [CASES] * len(chosen.sites)
    assert [row["name"] for row in report["sites"][0]["statistics"]["classes"]] == list(
        chosen.classes
    )
    keys = [*chosen.keys.items(), ("cache-dir", str(tmp_path / "cache"))]
    sets = [part for key, value in keys for part in ("--set", f"{key}={value}")]
    prepared = CliRunner().invoke(app, ["prepare", str(federation), *sets, "--json"])
    assert prepared.exit_code == 0, prepared.stdout
    assert [s["prepared"] for s in json.loads(prepared.stdout)["sites"]] == [CASES] * len(
        chosen.sites
    )
    train(federation, tmp_path / "run", sets)
    results = json.loads((tmp_path / "run/results.json").read_text())
    scores = results["sites"][chosen.sites[0]]["dice"]
    assert set(scores) == set(chosen.classes[1:])
    assert all(math.isfinite(value) for value in scores.values())


def train(federation: Path, out: Path, sets: list[str]) -> None:
    """Train one round with a tiny network."""
    keys = ["model.width=4", "model.depth=2", "local-steps=1", "batch-size=2", "device=cpu"]
    keys += ["tracking=", "evaluate.overlays=0", "evaluate.every=0", "evaluate.surface=false"]
    more = [part for key in keys for part in ("--set", key)]
    command = ["simulate", "--federation", str(federation), "--method", "mean_teacher"]
    done = CliRunner().invoke(
        coordinator, [*command, "--rounds", "1", "--out", str(out), *sets, *more]
    )
    assert done.exit_code == 0, done.output
