"""Pieces that several parts of the page share: numbers, legends, tabs, the frame around it all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from fedssl import __version__
from fedssl.report.html import Child, Markup, join, tag
from fedssl.report.script import SCRIPT
from fedssl.report.style import STYLE

__all__ = [
    "COLOURS",
    "Look",
    "byte_size",
    "document",
    "duration",
    "legend",
    "mean",
    "site_looks",
    "tabs",
    "value",
]

COLOURS = 8
"""Colours of the page's palette."""

_DASH = {"labeled": "solid", "unlabeled": "dashed", "mixed": "dotted"}
_STROKE = {"solid": None, "dashed": "7 4", "dotted": "2 3.5"}
# The browser itself refuses whatever is not in the file.
_POLICY = (
    "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'; "
    "base-uri 'none'; form-action 'none'"
)


@dataclass(frozen=True, slots=True)
class Look:
    """How the curves of one site or run look."""

    colour: int
    dash: str


def site_looks(roles: Mapping[str, str]) -> dict[str, Look]:
    """Return a look per site: a colour of its own, and the dash of its role."""
    return {
        site: Look(place % COLOURS, _DASH.get(role, "solid"))
        for place, (site, role) in enumerate(roles.items())
    }


def value(number: float | None, digits: int) -> Markup:
    """Return a rounded number that carries its exact value, or a dash where there is none."""
    if number is None:
        return tag("span", "\u2013", class_="quiet")
    return tag("data", f"{number:.{digits}f}", value=repr(float(number)))


def mean(values: Sequence[float | None]) -> float | None:
    """Return the mean of the values that are there, or None."""
    known = [v for v in values if v is not None]
    return sum(known) / len(known) if known else None


def duration(seconds: float) -> str:
    """Return seconds for people: `41.2 s`, `12 min`, `3 h 05 min`."""
    if seconds < 120:
        return f"{seconds:.1f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60:02d} min"


def byte_size(count: float) -> str:
    """Return bytes for people, in powers of 1000."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"


def legend(entries: Mapping[str, Look], captions: Mapping[str, str], lead: str) -> Markup:
    """Return buttons that switch curves.

    Args:
        entries: look by key.
        captions: a quieter word behind the key, e.g. the site's role.
        lead: what the buttons stand for.
    """
    buttons = [
        tag(
            "button",
            _swatch(look),
            key,
            tag("span", captions[key], class_="quiet") if captions.get(key) else None,
            type="button",
            aria_pressed="true",
            data_key=key,
        )
        for key, look in entries.items()
    ]
    return tag("div", tag("span", lead, class_="quiet"), *buttons, class_="legend", role="group")


def _swatch(look: Look) -> Markup:
    line = tag(
        "line",
        x1=0,
        x2=26,
        y1=4,
        y2=4,
        stroke="var(--c)",
        stroke_width=3,
        stroke_dasharray=_STROKE[look.dash],
    )
    return tag("svg", line, viewBox="0 0 26 8", aria_hidden="true", class_=f"c{look.colour}")


def tabs(name: str, label: str, panels: Mapping[str, Child], *, inner: bool = False) -> Markup:
    """Return a tab list and its panels; without scripts all panels are visible.

    Args:
        name: prefix of the elements' ids.
        label: what the list is, for screen readers.
        panels: title -> content; empty panels are left out.
        inner: whether the list lies inside a panel.
    """
    kept = {title: content for title, content in panels.items() if content}
    buttons = [
        tag(
            "button",
            title,
            type="button",
            role="tab",
            id=f"{name}-tab-{place}",
            aria_controls=f"{name}-{place}",
            aria_selected="true" if place == 0 else "false",
            data_name=title,
        )
        for place, title in enumerate(kept)
    ]
    list_ = tag(
        "div",
        *buttons,
        role="tablist",
        aria_label=label,
        class_="inner" if inner else "main wrap",
    )
    bodies = [
        tag(
            "section",
            content,
            role="tabpanel",
            id=f"{name}-{place}",
            tabindex=0,
            aria_labelledby=f"{name}-tab-{place}",
            class_=None if inner else "wrap",
        )
        for place, content in enumerate(kept.values())
    ]
    return join(list_ if inner else tag("nav", list_, class_="bar-top"), *bodies)


def document(title: str, head: Child, body: Child) -> str:
    """Return a whole page: one file that loads nothing.

    Args:
        title: of the window.
        head: content of the page's header.
        body: the rest.
    """
    page = tag(
        "html",
        tag(
            "head",
            tag("meta", charset="utf-8"),
            tag("meta", http_equiv="Content-Security-Policy", content=_POLICY),
            tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
            tag("meta", name="color-scheme", content="light dark"),
            tag("title", title),
            tag("style", Markup(STYLE)),
        ),
        tag(
            "body",
            tag("header", head, class_="top wrap"),
            tag("main", body),
            tag("footer", tag("div", f"Written by fedssl {__version__}.", class_="wrap")),
            tag("script", Markup(SCRIPT)),
        ),
        lang="en",
    )
    return f"<!doctype html>\n{page}\n"
