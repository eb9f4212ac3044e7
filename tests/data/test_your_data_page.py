"""docs/your-data.md tells every layout, with a federation file that loads."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from fedssl.config import RunConfig
from fedssl.data.layouts import LAYOUTS
from fedssl.data.layouts.layout import COMMON_OPTIONS
from fedssl.federation import load_federation

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "your-data.md").read_text(encoding="utf-8")


def sections() -> dict[str, str]:
    parts = re.split(r"^#### `(.+)`$", PAGE, flags=re.MULTILINE)
    return {
        name: re.split(r"^##", text, flags=re.MULTILINE)[0]
        for name, text in zip(parts[1::2], parts[2::2], strict=True)
    }


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL)


def test_every_layout_has_one_section_and_no_other_has():
    assert sorted(sections()) == sorted(LAYOUTS)


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_section_has_a_tree_a_federation_file_that_loads_and_the_command(name, tmp_path):
    text = sections()[name]
    assert any("<path>/" in tree for tree in blocks(text, ""))
    (table,) = blocks(text, "toml")
    path = tmp_path / "federation.toml"
    path.write_text(table)
    (site,) = load_federation(RunConfig(federation=str(path))).sites
    assert site.layout == name
    assert set(site.options) <= {*LAYOUTS[name].options, *COMMON_OPTIONS}
    assert blocks(text, "sh") == [f"fedssl-client check federation.toml --site {site.name}\n"]


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_section_tells_every_option_of_its_layout(name):
    text = sections()[name]
    assert [o for o in LAYOUTS[name].options if not re.search(rf"\b{o}\b", text)] == []


def test_the_introduction_tells_the_options_of_all_layouts():
    introduction = PAGE.split("## Layouts")[0]
    assert all(re.search(rf"\b{option} = ", introduction) for option in COMMON_OPTIONS)


def test_links_within_the_page_and_to_it_lead_somewhere():
    headings = re.findall(r"^#+ (.+)$", PAGE, flags=re.MULTILINE)
    anchors = {re.sub(r"[^\w -]", "", h).lower().replace(" ", "-") for h in headings}
    links = re.findall(r"\]\(([^)]+)\)", PAGE)
    assert links
    for link in links:
        place, _, anchor = link.partition("#")
        assert (ROOT / "docs" / place).exists()
        assert place or anchor in anchors
    assert "(docs/your-data.md)" in (ROOT / "README.md").read_text(encoding="utf-8")
