"""The page's parts about what was configured, which versions ran, and what the method is."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from inspect import cleandoc
from pathlib import PurePath
from typing import Any

from pydantic import BaseModel

from fedssl.config import RunConfig, flatten
from fedssl.methods import METHODS
from fedssl.report.html import Child, Markup, join, tag
from fedssl.report.load import Run

__all__ = [
    "PATH_KEYS",
    "configuration",
    "method_part",
    "method_text",
    "summary_of",
    "without_paths",
]

PATH_KEYS = ("federation", "data-root", "out", "cache-dir")
"""Keys that may name folders of the machine that ran."""


def configuration(run: Run) -> Markup:
    """Return every key with its value, default and meaning, and the versions."""
    known = _described(str(run.results["method"]), guided=_is_guided(run))
    rows: list[Child] = []
    section = ""
    for key, setting in run.config.items():
        if (head := key.rpartition(".")[0]) != section:
            section = head
            cell = tag("th", section, colspan=4, scope="colgroup")
            rows.append(tag("tr", cell, class_="section"))
        rows.append(_row(key, setting, *known.get(key, (None, ""))))
    head = tag("tr", *(tag("th", n, scope="col") for n in ("Key", "Value", "Default", "Meaning")))
    table = tag("table", tag("thead", head), tag("tbody", *rows), class_="config")
    box = tag("input", type="checkbox", class_="only-changed")
    versions = [
        tag("tr", tag("th", name, scope="row"), tag("td", version))
        for name, version in run.results["versions"].items()
    ]
    return join(
        tag("label", box, "only what differs from the defaults", class_="check"),
        tag("div", table, class_="scroll"),
        tag("h2", "Versions"),
        tag("div", tag("table", tag("tbody", *versions)), class_="scroll"),
    )


def method_part(run: Run) -> Markup:
    """Return what is said of a run's method, and of the quality predictor that guided it."""
    method = str(run.results["method"])
    if not _is_guided(run) or method == "quality":
        return method_text(method)
    note = f"Guided: a quality predictor weighs the samples of {method} (quality.guide = true)."
    return join(method_text(method), tag("p", note, class_="note"), method_text("quality"))


def method_text(name: str) -> Markup:
    """Return what the method's file says of itself: the source, and how sure each part is."""
    method = METHODS.get(name)
    if method is None:
        return tag("p", f"This version of fedssl has no method {name!r}.", class_="quiet")
    file = sys.modules.get(f"fedssl.methods.{name}")  # a method from elsewhere has no such file
    text = cleandoc((file and file.__doc__) or method.summary)
    notes = [cleandoc(cls.__doc__) for cls in _configs(method.config) if cls.__doc__]
    return join(
        tag("h2", f"{name}: what is implemented, and how sure that is"),
        tag("div", *_paragraphs(text), class_="prose"),
        tag("h2", "Its keys"),
        tag("div", *(p for note in notes for p in _paragraphs(note)), class_="prose"),
    )


def summary_of(name: str) -> str:
    """Return the method's one line, or '' if this version does not know it."""
    return METHODS[name].summary if name in METHODS else ""


def without_paths(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a configuration in which paths are reduced to their last part."""
    return {
        key: PurePath(str(setting)).name if key in PATH_KEYS else setting
        for key, setting in config.items()
    }


def _configs(config: type[BaseModel]) -> Iterator[type[BaseModel]]:
    """Yield a method's config and those of its bases that are the method's, too."""
    for cls in config.__mro__:
        if issubclass(cls, BaseModel) and cls.__module__.startswith("fedssl.methods."):
            yield cls


def _is_guided(run: Run) -> bool:
    return bool(run.config.get("quality.guide"))


def _described(method: str, *, guided: bool) -> dict[str, tuple[Any, str]]:
    """Return default and meaning by flat key."""
    defaults: dict[str, Any] = dict(flatten(RunConfig()))
    meanings = dict(_meanings(RunConfig, ""))
    for name in {method, "quality"} if guided else {method}:
        if name in METHODS:
            config = METHODS[name].config
            defaults |= flatten(config(), f"{name}.")
            meanings |= dict(_meanings(config, f"{name}."))
    return {key: (default, meanings.get(key, "")) for key, default in defaults.items()}


def _meanings(model: type[BaseModel], prefix: str) -> Iterator[tuple[str, str]]:
    for name, field in model.model_fields.items():
        key = prefix + name.replace("_", "-")
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from _meanings(field.annotation, f"{key}.")
        else:
            yield key, field.description or ""


def _row(key: str, setting: Any, default: Any, meaning: str) -> Markup:
    # Paths are always one's own; they say nothing about the experiment.
    differs = default is not None and setting != default and key not in PATH_KEYS
    cells: Sequence[Child] = (
        tag("td", tag("code", key)),
        tag("td", _written(setting)),
        tag("td", "" if default is None else _written(default), class_="quiet"),
        tag("td", meaning, class_="quiet"),
    )
    return tag("tr", *cells, class_="changed" if differs else "same", data_key=key)


def _written(setting: Any) -> str:
    if isinstance(setting, bool):
        return str(setting).lower()
    return str(setting)


def _paragraphs(text: str) -> list[Markup]:
    return [tag("p", _inline(" ".join(p.split()))) for p in re.split(r"\n\s*\n", text)]


def _inline(text: str) -> Markup:
    """Mark what stands in backticks."""
    pieces = text.split("`")
    return join(*(tag("code", p) if i % 2 else p for i, p in enumerate(pieces)))
