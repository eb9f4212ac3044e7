"""The tour of docs/tutorial-site.md, command by command, on photographs of the retina."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813 -- its customary name
from coordinators import coordinator
from trained_runs import train
from typer.testing import CliRunner

import fedssl
from clients.cli import app
from clients.doctor import machine
from fedssl.cli.processes import free_port
from fedssl.deploy.keyring import extend_keyring
from fedssl.federation import load_site_file

ROOT = Path(fedssl.__file__).resolve().parents[1]
PAGE = ROOT / "docs/tutorial-site.md"
TASK = """
[task]
name = "retina_vessels"
classes = ["background", "vessel"]
channels = 3
[[site]]
name = "chase"
role = "labeled"
path = "chase"
spacing = "unknown"
"""


def commands() -> list[list[str]]:
    """Return the commands of the page, in order."""
    blocks = re.findall(r"^```sh\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.DOTALL | re.M)
    return [shlex.split(line) for block in blocks for line in block.splitlines() if line]


@dataclass
class Desk:
    """Where the data manager sits: a folder with what the page says is there."""

    folder: Path
    port: int

    def run(self, *words: str, status: int = 0) -> str:
        """Run the command of the page that begins with these words."""
        (found,) = [c for c in commands() if c[1 : 1 + len(words)] == [*words]]
        return self.call(found[1:], status)

    def call(self, arguments: list[str], status: int = 0) -> str:
        mine = {"fl.example.org:443": f"localhost:{self.port}", "image-size=320": "image-size=48"}
        done = CliRunner().invoke(app, [mine.get(a, a) for a in arguments])
        assert done.exit_code == status, done.output
        return done.output


@pytest.fixture
def desk(real_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Desk]:
    for name in ("https_proxy", "http_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.setattr(machine, "DISK", (0, 0))
    monkeypatch.setattr(machine, "MEMORY", (0, 0))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folder = tmp_path / "desk"
    copy(real_data / "retina_vessels/stare", folder / "retina_vessels/stare", 6)
    extend_keyring(tmp_path / "keys", hosts=["localhost"], sites=["stare"])
    (folder / "keys").mkdir()
    shutil.copy(tmp_path / "keys/authority/ca.crt", folder / "keys/ca.crt")
    shutil.copy(tmp_path / "keys/nodes/stare", folder / "keys/node.key")
    monkeypatch.chdir(folder)
    with coordinator(tmp_path / "keys") as port:
        yield Desk(folder, port)


def copy(source: Path, target: Path, count: int) -> None:
    """Copy some images with their masks."""
    for kind in ("images", "labels"):
        (target / kind).mkdir(parents=True)
        for path in sorted((source / kind).iterdir())[:count]:
            shutil.copy(path, target / kind)


@pytest.fixture
def trained(real_data: Path, tmp_path: Path, desk: Desk) -> Path:
    """What the coordinator sends after the run, here of a moment."""
    copy(real_data / "retina_vessels/chase_db1", tmp_path / "training/chase", 6)
    keys = {"image-size": "48", "local-steps": 4, "split.val-fraction": 0.0}
    run = train(tmp_path / "training", TASK, **keys)
    shutil.copytree(run, desk.folder / "vessels-run")
    return desk.folder / "vessels-run"


def test_the_tour_of_the_page(desk: Desk, trained: Path) -> None:
    desk.run("init")
    assert load_site_file(desk.folder / "site.toml")[1].name == "stare"
    text = (desk.folder / "site.toml").read_text()
    text = text.replace('spacing = "header"', 'spacing = "unknown"')
    (desk.folder / "site.toml").write_text(text.replace("port = 9094", f"port = {free_port()}"))

    desk.run("check")
    assert "Ready to join." in desk.run("doctor")
    assert "6 cases" in desk.run("prepare")
    assert "were prepared already" in desk.run("prepare")
    (shown,) = [c for c in commands() if "--print" in c]
    assert f"--superlink localhost:{desk.port}" in desk.call(shown[1:])
    join_and_leave(desk)

    desk.run("preview")
    assert len(list((desk.folder / "preview").glob("*.png"))) == 2
    desk.run("pseudo", "export")
    worst = (desk.folder / "pseudo/index.csv").read_text().splitlines()[1].split(",")
    correct(desk.folder / "pseudo" / worst[2])
    assert "1 masks taken over, 5 unchanged" in desk.run("pseudo", "import")
    assert load_site_file(desk.folder / "site.toml")[1].role == "mixed"

    images = desk.folder / "new-images"
    images.mkdir()
    for path in sorted((desk.folder / "retina_vessels/stare/images").iterdir())[:2]:
        shutil.copy(path, images)
    assert "2 masks in masks" in desk.run("predict")
    for path in images.iterdir():
        (mask,) = (desk.folder / "masks").glob(f"{path.stem}.*")
        image = sitk.GetArrayFromImage(sitk.ReadImage(str(path)))
        label = sitk.GetArrayFromImage(sitk.ReadImage(str(mask)))
        assert label.shape == image.shape[:2]
        assert set(np.unique(label)) <= {0, 1}


def correct(path: Path) -> None:
    """Paint a vessel."""
    label = sitk.GetArrayFromImage(sitk.ReadImage(str(path)))
    label[100:104] = 1 - label[100:104]
    sitk.WriteImage(sitk.GetImageFromArray(label), str(path))


def join_and_leave(desk: Desk) -> None:
    """Join as the page says, in a process of its own, and leave with SIGINT as Ctrl-C does."""
    (command,) = [c for c in commands() if c[1] == "join" and "--print" not in c]
    start = [sys.executable, "-c", "from clients.cli import app; app()"]
    with subprocess.Popen(
        [*start, *command[1:]],
        cwd=desk.folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert "Site stare (unlabeled) joins" in process.stdout.readline()
        deadline = time.monotonic() + 60
        while not (desk.folder / "state/superexec.secret").exists():
            assert time.monotonic() < deadline
            time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=60)
    assert process.returncode == 0


def test_the_page_shows_every_command_of_the_client() -> None:
    shown = {" ".join(c[1:3]) if c[1] == "pseudo" else c[1] for c in commands()}
    known = {c.name for c in app.registered_commands} - {"pseudo"}
    assert all(c[0] == "fedssl-client" for c in commands())
    assert shown == known | {"pseudo export", "pseudo import"}
