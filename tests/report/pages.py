"""A reader of HTML for tests: a tree that insists on balanced tags."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path

VOID = {"br", "col", "hr", "img", "input", "link", "meta"}


@dataclass
class Element:
    name: str
    attributes: dict[str, str]
    children: list[Element | str] = field(default_factory=list)

    def all(self, name: str = "", **wanted: str) -> Iterator[Element]:
        """Yield descendants with a name and attributes, `class_` among them as a word."""
        for child in self.children:
            if isinstance(child, Element):
                if child.matches(name, wanted):
                    yield child
                yield from child.all(name, **wanted)

    def matches(self, name: str, wanted: dict[str, str]) -> bool:
        if name and self.name != name:
            return False
        for key, value in wanted.items():
            given = self.attributes.get(key.rstrip("_").replace("_", "-"), "")
            if value not in (given.split() if key == "class_" else [given]):
                return False
        return True

    def one(self, name: str = "", **wanted: str) -> Element:
        found = list(self.all(name, **wanted))
        assert len(found) == 1, f"{len(found)} x {name} {wanted}"
        return found[0]

    @property
    def text(self) -> str:
        return "".join(c if isinstance(c, str) else c.text for c in self.children)

    def numbers(self) -> list[float]:
        """Return the exact values of all `data` elements."""
        return [float(d.attributes["value"]) for d in self.all("data")]


class _Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.root = Element("", {})
        self.open = [self.root]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        names = [name for name, _ in attrs]
        assert len(set(names)) == len(names), f"attribute twice in {tag}: {names}"
        element = Element(tag, {name: value or "" for name, value in attrs})
        self.open[-1].children.append(element)
        if tag not in VOID:
            self.open.append(element)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.open[-1].name == tag, f"</{tag}> closes <{self.open[-1].name}>"
        self.open.pop()

    def handle_data(self, data: str) -> None:
        self.open[-1].children.append(data)


def read_page(path: Path) -> Element:
    """Parse a page; raise `AssertionError` where tags are not balanced."""
    reader = _Reader()
    reader.feed(path.read_text(encoding="utf-8"))
    reader.close()
    assert reader.open == [reader.root], [e.name for e in reader.open]
    return reader.root


def results(folder: Path) -> dict[str, object]:
    found: dict[str, object] = json.loads((folder / "results.json").read_text())
    return found
