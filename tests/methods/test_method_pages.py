"""Each method has a page with all its parts, and the page tells the defaults that the code has."""

from __future__ import annotations

import re
from fractions import Fraction
from pathlib import Path

import pytest

import fedssl
from fedssl.config import ModelConfig, flatten
from fedssl.methods import METHODS
from fedssl.methods.quality_config import GuideConfig
from fedssl.methods.ssl_rule import SemiSupervisedConfig
from fedssl.methods.teacher import TeacherConfig

PAGES = Path(fedssl.__file__).resolve().parents[1] / "docs" / "methods"
PARTS = ["Idea", "Equations", "Defaults", "Certain, inferred", "What travels", "Cost"]
COMMON = {**flatten(TeacherConfig()), **flatten(SemiSupervisedConfig())}
"""Keys that `baselines.md` explains; a page names those whose default is its own."""

every_method = pytest.mark.parametrize("name", list(METHODS))


def page(name: str) -> str:
    return (PAGES / f"{name}.md").read_text(encoding="ascii")


def sections(text: str) -> dict[str, str]:
    _, *found = re.split(r"^## (.+)$", text, flags=re.MULTILINE)
    return dict(zip(found[::2], found[1::2], strict=True))


def defaults(name: str) -> dict[str, object]:
    """Return the method's own keys; those that guide any method belong to `quality`."""
    own = flatten(METHODS[name].config())
    if name == "quality":
        return {k: v for k, v in own.items() if k not in COMMON or v != COMMON[k]}
    return {k: v for k, v in own.items() if COMMON.get(k, v is None) != v}


def rows(name: str) -> list[tuple[list[str], list[str]]]:
    """Return keys and values of each row of the table of defaults."""
    found = []
    for line in sections(page(name))["Defaults"].splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        keys = re.findall(r"`([a-z0-9.-]+)`", cells[0])
        if line.startswith("| `") and "..." not in cells[0]:
            values = cells[1].split(", ") if len(keys) > 1 else [cells[1]]
            values = [re.split(r"[ :;]", v)[0].strip("`") for v in values]
            found.append((keys, values * len(keys) if len(values) == 1 else values))
    return found


def same(written: str, value: object) -> bool:
    if isinstance(value, bool):
        return written in (("true", "on") if value else ("false", "off"))
    if isinstance(value, str):
        return written == value
    assert isinstance(value, int | float)
    return float(0 if written == "off" else Fraction(written)) == pytest.approx(value, rel=1e-9)


@every_method
def test_the_page_has_a_source_an_idea_in_a_few_lines_and_all_parts(name: str):
    text = page(name)
    head, found = text.partition("\n## ")[0], sections(text)
    assert head.startswith(f"# {name}\n")
    assert re.search(r"\b(19|20)\d\d\b", head), "the page names its source"
    assert [part for part in found if part in PARTS] == PARTS
    assert all(found[part].strip() for part in PARTS)
    prose = [line for line in found["Idea"].strip().splitlines() if line[:4].strip()]
    assert 0 < len(prose) <= 5


@every_method
def test_the_page_tells_every_key_and_the_defaults_of_the_code(name: str):
    own, model = flatten(METHODS[name].config()), flatten(ModelConfig(), "model.")
    for keys, values in rows(name):
        assert len(keys) == len(values), keys
        for key, written in zip(keys, values, strict=True):
            assert same(written, {**model, **own}[key]), f"{key} = {written}"
    told = set(re.findall(r"`([a-z0-9.-]+)(?: = [^`]*)?`", page(name)))
    if name == "quality":  # the first and last of seven stand for all
        told |= {f"p-{c}" for c in ("single", "chained", "cross-image", "heavy", "catastrophic")}
        told |= {k for k in flatten(GuideConfig()) if k == "guide" and "guide" in page(name)}
    inherited = flatten(METHODS["fedavg"].config()) if name in ("fedprox", "fedbn") else {}
    assert set(defaults(name)) - told - set(inherited) == set()


@every_method
def test_the_index_links_the_page(name: str):
    index = (PAGES / "README.md").read_text(encoding="ascii")
    assert f"| [{name}]({name}.md) |" in index


def test_every_link_between_pages_leads_somewhere():
    for path in PAGES.glob("*.md"):
        for target in re.findall(r"\]\(([^)#:]+)\)", path.read_text(encoding="ascii")):
            assert (PAGES / target).exists(), f"{path.name}: {target}"
