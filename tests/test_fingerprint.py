"""The code fingerprint depends on names and bytes of the sources, and on nothing else."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import fedssl.fingerprint
from fedssl.fingerprint import code_fingerprint

ROOT = Path(fedssl.fingerprint.__file__).resolve().parents[1]
PRINT = "from fedssl.fingerprint import code_fingerprint; print(code_fingerprint())"


def fingerprint_in(folder: Path) -> str:
    """Run the packages under `folder` in a process of their own."""
    return subprocess.run(
        [sys.executable, "-c", PRINT], cwd=folder, check=True, capture_output=True, text=True
    ).stdout.strip()


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    for package in ("fedssl", "clients", "server"):
        shutil.copytree(ROOT / package, tmp_path / package)
    return tmp_path


def test_a_copy_elsewhere_has_the_same_fingerprint(copy: Path) -> None:
    (copy / "fedssl" / "notes.txt").write_text("not code")
    (copy / "fedssl" / "__pycache__").mkdir(exist_ok=True)
    (copy / "tests").mkdir()
    (copy / "tests" / "test_x.py").write_text("x = 1")
    assert fingerprint_in(copy) == code_fingerprint()
    assert len(code_fingerprint()) == 64


@pytest.mark.parametrize("package", ["fedssl", "clients", "server"])
def test_one_changed_byte_changes_the_fingerprint(copy: Path, package: str) -> None:
    path = min((copy / package).rglob("*.py"))
    path.write_bytes(path.read_bytes() + b"#")
    assert fingerprint_in(copy) != code_fingerprint()


def test_a_moved_file_changes_the_fingerprint(copy: Path) -> None:
    path = copy / "server" / "strategy.py"
    path.rename(path.with_name("plan.py"))
    assert fingerprint_in(copy) != code_fingerprint()
