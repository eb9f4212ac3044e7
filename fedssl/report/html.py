"""A few lines that write HTML: everything is escaped unless it is `Markup` already."""

from __future__ import annotations

from html import escape

__all__ = ["Child", "Markup", "join", "tag"]


class Markup(str):
    """Text that is HTML."""

    __slots__ = ()


Child = str | float | None
_VOID = {"br", "col", "hr", "img", "input", "link", "meta", "circle", "line", "path", "rect"}


def tag(name: str, /, *children: Child, **attributes: str | float | bool | None) -> Markup:
    """Return an element.

    Args:
        name: of the element; void elements and SVG shapes without children are closed at once.
        children: text, numbers or markup; None is left out.
        attributes: `class_` is written `class`, `data_x` is written `data-x`; True stands for the
            bare name; None and False are left out.
    """
    written = "".join(_attribute(key, value) for key, value in attributes.items())
    if name in _VOID and not children:
        return Markup(f"<{name}{written}/>")
    return Markup(f"<{name}{written}>{join(*children)}</{name}>")


def join(*children: Child) -> Markup:
    """Return children one after the other, escaped where they are no markup."""
    return Markup("".join(_text(child) for child in children if child is not None))


def _text(child: str | float) -> str:
    return child if isinstance(child, Markup) else escape(str(child))


def _attribute(key: str, value: str | float | bool | None) -> str:
    if value is None or value is False:
        return ""
    name = key.rstrip("_").replace("_", "-")
    return f" {name}" if value is True else f' {name}="{escape(str(value))}"'
