"""What holds for every file of the source tree."""

from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path

import pytest

import fedssl
from fedssl.fingerprint import package_folders

LIMIT = 300
FOLDERS = package_folders()
SOURCES = sorted(path for folder in FOLDERS for path in folder.rglob("*.py"))
MODULES = [
    ".".join(path.relative_to(folder.parent).with_suffix("").parts).removesuffix(".__init__")
    for folder in FOLDERS
    for path in sorted(folder.rglob("*.py"))
]


def relative(path: Path) -> str:
    return path.relative_to(Path(fedssl.__file__).parents[1]).as_posix()


def test_no_file_is_longer_than_a_few_screens():
    lengths = {relative(p): len(p.read_text(encoding="utf-8").splitlines()) for p in SOURCES}
    assert {name: lines for name, lines in lengths.items() if lines > LIMIT} == {}


def test_sources_are_plain_ascii():
    assert [relative(p) for p in SOURCES if not p.read_bytes().isascii()] == []


def test_every_module_begins_with_a_docstring_and_says_what_is_public():
    silent = []
    for path in SOURCES:
        text = path.read_text(encoding="utf-8")
        is_special = path.name in ("__init__.py", "__main__.py")
        if not text.startswith('"""') or ("__all__" not in text and not is_special):
            silent.append(relative(path))
    assert silent == []


@pytest.mark.parametrize("name", MODULES)
def test_what_a_module_calls_public_is_there(name: str):
    module = importlib.import_module(name)
    names = getattr(module, "__all__", [])
    assert len(set(names)) == len(names)
    assert [public for public in names if not hasattr(module, public)] == []


LIGHT = ["fedssl.types", "fedssl.config", "fedssl.errors", "fedssl.federation", "fedssl.cli"]


def imported(statement: str) -> set[str]:
    """Return the modules that a new process has loaded after a statement."""
    code = f"import sys; {statement}; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(fedssl.__file__).parents[1],
    )
    return set(done.stdout.split())


def test_nouns_configuration_and_command_line_import_neither_monai_nor_flower_nor_ray():
    loaded = imported("import " + ", ".join(LIGHT))
    assert (
        loaded & {"monai", "flwr", "ray", "SimpleITK", "matplotlib", "clients", "server"} == set()
    )


def test_the_command_line_starts_without_torch():
    assert "torch" not in imported("import fedssl.cli, fedssl.config, fedssl.errors")


def test_imports_touch_no_gpu():
    code = "import fedssl.types, fedssl.config, fedssl.errors, fedssl.methods, torch"
    assert "fedssl.types" in imported(f"{code}; assert not torch.cuda.is_initialized()")


@pytest.mark.parametrize(
    ("module", "foreign"),
    [
        ("fedssl.coordinator, fedssl.site", {"clients", "server"}),
        ("clients.app", {"server"}),
        ("server.app", {"clients"}),
    ],
)
def test_packages_depend_on_the_library_and_not_on_each_other(module: str, foreign: set[str]):
    assert {m.partition(".")[0] for m in imported(f"import {module}")} & foreign == set()
