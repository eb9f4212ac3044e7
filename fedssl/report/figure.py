"""One case as a picture for people: titled panels, a legend, and a strip of slices for a volume."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import numpy as np

from fedssl.report.drawing import Drawing, Panel

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["PANEL_TITLES", "case_picture"]

PANEL_TITLES = {
    "image": "Image",
    "truth": "Truth",
    "prediction": "Prediction",
    "differences": "Differences",
    "pseudo": "Pseudo-label",
    "trust": "Trust mask",
    "hidden": "Hidden truth (diagnostic)",
}
_DPI = 100
_PANEL, _GAP, _MARGIN = 2.6, 0.08, 0.16
_HEAD, _LABEL, _STRIP = 0.62, 0.46, 8
_DARK, _INK, _MUTED = "#11161c", "#f2f5f8", "#a3b0bd"


def case_picture(drawing: Drawing, *, title: str, subtitle: str) -> bytes:
    """Return a PNG: one row of panels, and for a volume two rows of slices below.

    The slice with most foreground is shown large. Inches are the unit of all lengths here.
    """
    from matplotlib.figure import Figure

    names = ["image", *drawing.panels]
    width = _row_width(len(names))
    panel_height = _PANEL / drawing.aspect
    strips = _strip_panels(drawing)
    slice_width = (width - 2 * _MARGIN - (_STRIP - 1) * _GAP) / _STRIP
    strip_height = len(strips) * (slice_width / drawing.aspect + _GAP) + _LABEL * bool(strips)
    height = _HEAD + panel_height + _LABEL + strip_height + _MARGIN
    figure = Figure(figsize=(width, height), dpi=_DPI, facecolor=_DARK)
    _text(figure, _MARGIN, height - 0.15, title, size=12, color=_INK, weight="bold")
    _text(figure, _MARGIN, height - 0.37, subtitle, size=9, color=_MUTED)
    top = height - _HEAD
    for place, name in enumerate(names):
        left = _MARGIN + place * (_PANEL + _GAP)
        panel = drawing.panels.get(name)
        bottom = top - panel_height
        _paint(figure, (left, bottom, _PANEL, panel_height), drawing, panel, drawing.start)
        _caption(figure, left, bottom - 0.06, PANEL_TITLES[name], panel)
    top -= panel_height + _LABEL
    if strips:
        _strips(figure, drawing, strips, top, slice_width)
    content = io.BytesIO()
    figure.savefig(content, format="png", facecolor=_DARK)
    return content.getvalue()


def _row_width(panels: int) -> float:
    return 2 * _MARGIN + panels * _PANEL + (panels - 1) * _GAP


def _strip_panels(drawing: Drawing) -> dict[str, Panel]:
    """Return the rows of the strip: what is to be compared."""
    if drawing.depth == 1:
        return {}
    wanted = ("pseudo", "trust") if "pseudo" in drawing.panels else ("truth", "prediction")
    return {name: drawing.panels[name] for name in wanted if name in drawing.panels}


def _strips(
    figure: Figure, drawing: Drawing, strips: dict[str, Panel], top: float, width: float
) -> None:
    height = width / drawing.aspect
    count = len(drawing.slices)
    places = np.unique(np.linspace(0, count - 1, min(_STRIP, count)).round().astype(int))
    for column, place in enumerate(places):
        left = _MARGIN + column * (width + _GAP)
        number = f"slice {drawing.slices[place] + 1}"
        _text(figure, left, top, number, size=7.5, color=_MUTED)
        for row, panel in enumerate(strips.values()):
            bottom = top - 0.2 - (row + 1) * height - row * _GAP
            _paint(figure, (left, bottom, width, height), drawing, panel, int(place))
    names = " above, ".join(PANEL_TITLES[name].lower() for name in strips)
    tail = " below" if len(strips) > 1 else ""
    bottom = top - 0.2 - len(strips) * (height + _GAP)
    _text(figure, _MARGIN, bottom, f"{names}{tail}", size=7.5, color=_MUTED)


def _paint(
    figure: Figure,
    box: tuple[float, float, float, float],
    drawing: Drawing,
    panel: Panel | None,
    place: int,
) -> None:
    """Draw one slice and its layer into a box (left, bottom, width, height)."""
    width, height = figure.get_size_inches()
    left, bottom, across, up = box
    axes = figure.add_axes((left / width, bottom / height, across / width, up / height))
    axes.set_axis_off()
    extent = (0.0, 1.0, 0.0, 1.0)
    image = drawing.image[place]
    colour = image if image.ndim == 3 else np.repeat(image[..., None], 3, axis=-1)
    axes.imshow(colour, extent=extent, aspect="auto", interpolation="bilinear")
    if panel is not None:
        colours = np.asarray(panel.palette, dtype=np.uint8)[panel.layer[place]]
        axes.imshow(colours, extent=extent, aspect="auto", interpolation="antialiased")


def _caption(figure: Figure, left: float, top: float, title: str, panel: Panel | None) -> None:
    _text(figure, left, top, title, size=9, color=_INK, weight="bold")
    offset = left
    for name, colour in (panel.legend if panel else {}).items():
        _text(figure, offset, top - 0.18, "\u25a0", size=8, color=colour)
        _text(figure, offset + 0.13, top - 0.18, name, size=8, color=_MUTED)
        offset += 0.13 + 0.068 * len(name) + 0.14


def _text(figure: Figure, left: float, top: float, text: str, **style: object) -> None:
    width, height = figure.get_size_inches()
    # A case name may hold a dollar sign, which would start a formula.
    figure.text(
        left / width,
        top / height,
        text,
        va="top",
        ha="left",
        parse_math=False,
        **style,  # type: ignore[arg-type]  # style keys of several types
    )
