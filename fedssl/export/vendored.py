"""Copies modules of fedssl, and what they import of it, into a package of another name."""

from __future__ import annotations

import ast
import re
import sys
from importlib.metadata import packages_distributions, version
from importlib.util import find_spec
from pathlib import Path

from fedssl import __version__

__all__ = ["closure", "copy_modules", "requirements"]

_OURS = re.compile(r"^(\s*(?:from|import) )fedssl\b", re.MULTILINE)


def closure(module: str) -> dict[str, Path]:
    """Return a module of fedssl and all of fedssl that it imports: name -> source file."""
    found: dict[str, Path] = {}
    open_ = [module]
    while open_:
        name = open_.pop()
        if name not in found:
            found[name] = _source(name)
            open_ += [n for n in _imports(found[name]) if n.startswith("fedssl.")]
    return found


def copy_modules(module: str, folder: Path) -> None:
    """Write the closure of a module into the package `folder`, renamed after the folder.

    Packages on the way get an empty `__init__.py`: what fedssl's own import is not needed.
    """
    origin = (
        f'"""Parts of fedssl {__version__} (Apache License 2.0), copied by `fedssl export`."""\n'
    )
    for name, source in closure(module).items():
        *packages, stem = name.split(".")[1:]
        place = folder
        for package in ("", *packages):
            place = place / package
            place.mkdir(parents=True, exist_ok=True)
            (place / "__init__.py").write_text(origin, encoding="utf-8")
        text = source.read_text(encoding="utf-8")
        (place / f"{stem}.py").write_text(_OURS.sub(rf"\1{folder.name}", text), encoding="utf-8")


def requirements(module: str) -> dict[str, str]:
    """Return the installed distributions that a module's closure imports, with their versions."""
    roots = {n.partition(".")[0] for path in closure(module).values() for n in _imports(path)}
    owners = packages_distributions()
    foreign = roots - sys.stdlib_module_names - {"fedssl", "__future__"}
    return {owner: version(owner) for owner in sorted({owners[root][0] for root in foreign})}


def _source(name: str) -> Path:
    spec = find_spec(name)
    if spec is None or spec.origin is None or spec.submodule_search_locations is not None:
        msg = f"{name} is no module in a file of its own, so it cannot be copied"
        raise ImportError(msg)
    return Path(spec.origin)


def _imports(path: Path) -> list[str]:
    """Return the modules that a file imports, wherever in it the statement stands."""
    names: list[str] = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.append(node.module)
    return names
