"""A site runs the code that it accepts; an altered bundle is refused before a line of it runs."""

from __future__ import annotations

import io
import re
import zipfile
from pathlib import Path
from types import SimpleNamespace

import pytest
from flwr.cli.build import build_fab_from_disk

from clients.acceptance import BundleRefusedError, require_accepted
from clients.checked_app import guard
from fedssl.app_config import stage_app


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """What `fedssl run` submits, packed by Flower itself."""
    return bytes(build_fab_from_disk(stage_app(tmp_path_factory.mktemp("app"))))


def altered(content: bytes, **change: bytes | None) -> bytes:
    """Return the bundle with files added, replaced or (None) left out."""
    changes = dict(change)
    packed = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(packed, "w") as new:
        for name in old.namelist():
            value = changes.pop(name, old.read(name))
            if value is not None:
                new.writestr(name, value)
        for name, value in changes.items():
            assert value is not None
            new.writestr(name, value)
    return packed.getvalue()


def text(content: bytes, name: str) -> bytes:
    with zipfile.ZipFile(io.BytesIO(content)) as bundle:
        return bundle.read(name)


def test_the_installed_code_is_accepted(bundle: bytes) -> None:
    digest = require_accepted(bundle, "installed")
    assert re.fullmatch("[0-9a-f]{64}", digest)
    assert require_accepted(bundle, (digest,)) == digest
    assert require_accepted(b"anything", "any")


def test_another_digest_is_refused_with_both_values(bundle: bytes) -> None:
    digest = require_accepted(bundle, "any")
    with pytest.raises(BundleRefusedError, match=rf"{digest}.*{'0' * 64}"):
        require_accepted(bundle, ("0" * 64,))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("clients/app.py", "clients/app.py differs from the installed file"),
        ("fedssl/engine.py", "fedssl/engine.py differs"),
        ("sitecustomize.py", "brings 'sitecustomize.py'"),
        ("torch/__init__.py", "brings 'torch/__init__.py'"),
        ("fedssl/extra.py", "brings 'fedssl/extra.py'"),
        ("fedssl/engine.pyc", "brings 'fedssl/engine.pyc'"),
        ("fedssl/engine.so", "brings"),
        (".info/evil.py", "brings"),
        ("../outside.py", "brings"),
    ],
)
def test_one_foreign_file_is_refused_by_name(bundle: bytes, name: str, message: str) -> None:
    with pytest.raises(BundleRefusedError, match=re.escape(message)):
        require_accepted(altered(bundle, **{name: b"import os\n"}), "installed")


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b'clientapp = "clients.app:app"', b'clientapp = "fedssl.cli:app"'),
        (b'publisher = "fedssl"', b'publisher = "../../else"'),
        (b'version = "0.1.0"', b'version = "../../0.1.0"'),
        (b"[project]", b"[projekt]"),
        (b"[project]", b"[project"),
    ],
)
def test_a_changed_project_file_is_refused(bundle: bytes, old: bytes, new: bytes) -> None:
    project = text(bundle, "pyproject.toml")
    assert old in project
    changed = altered(bundle, **{"pyproject.toml": project.replace(old, new, 1)})
    with pytest.raises(BundleRefusedError, match=r"pyproject\.toml"):
        require_accepted(changed, "installed")


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_name_that_stands_twice_is_refused(bundle: bytes) -> None:
    packed = io.BytesIO(bundle)
    with zipfile.ZipFile(packed, "a") as archive:
        archive.writestr("clients/app.py", "import os\n")
    with pytest.raises(BundleRefusedError, match=r"'clients/app\.py' twice"):
        require_accepted(packed.getvalue(), "installed")


def test_what_is_no_bundle_is_refused(bundle: bytes) -> None:
    with pytest.raises(BundleRefusedError, match="no readable bundle"):
        require_accepted(bundle[:-100], "installed")
    with pytest.raises(BundleRefusedError, match=r"has no pyproject\.toml"):
        require_accepted(altered(bundle, **{"pyproject.toml": None}), "installed")


def test_a_bundle_announced_as_another_is_not_unpacked(bundle: bytes, tmp_path: Path) -> None:
    unpacked: list[bytes] = []
    flower = flower_like(bundle, "0" * 64, unpacked, tmp_path)
    guard("installed", tmp_path / "apps", flower)
    flower.pull_task_input(None)
    with pytest.raises(BundleRefusedError, match=f"announced as {'0' * 64}"):
        flower.install_from_fab(bundle)
    assert unpacked == []


def test_an_app_that_was_not_checked_is_not_loaded(bundle: bytes, tmp_path: Path) -> None:
    digest = require_accepted(bundle, "any")
    flower = flower_like(bundle, digest, [], tmp_path)
    guard("installed", tmp_path / "apps", flower)
    load = flower.get_load_client_app_fn()
    with pytest.raises(BundleRefusedError, match="not the bundle that this site has checked"):
        load("fedssl/fedssl", "0.1.0", digest)


def test_a_flower_that_works_in_another_way_is_refused() -> None:
    with pytest.raises(BundleRefusedError, match="has no install_from_fab"):
        guard("any", Path("apps"), SimpleNamespace(pull_task_input=len, get_load_client_app_fn=len))  # type: ignore[arg-type]  # a Flower that lacks a function


def flower_like(
    bundle: bytes, announced: str, unpacked: list[bytes], folder: Path
) -> SimpleNamespace:
    """Return the three functions of Flower's process that the checks are put around."""
    fab = SimpleNamespace(hash_str=announced, content=bundle)
    run = SimpleNamespace(fab_hash=announced)
    return SimpleNamespace(
        pull_task_input=lambda client: (None, None, run, fab),
        install_from_fab=lambda content: unpacked.append(content) or folder,
        get_load_client_app_fn=lambda: lambda *args: "loaded",
    )
