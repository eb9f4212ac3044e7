"""Overlay pictures of a few cases. They show patients' images; no message carries them.

Each chosen case gets one picture for people, `<id>.png`, and thin layers for the HTML report: the
image and transparent overlays, each a PNG with the chosen slices stacked from top to bottom.
`overlays.jsonl` lists them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from fedssl.memory import write_atomically
from fedssl.report.drawing import Drawing, draw_evaluated, draw_pseudo
from fedssl.report.figure import case_picture
from fedssl.report.png import encode_png
from fedssl.types import Task

__all__ = ["OverlaySource", "save_overlays", "spread_over_ranks"]


class CaseInfo(Protocol):
    """What is read of a prepared case."""

    @property
    def name(self) -> str:
        """Unique within the site."""

    @property
    def spacing(self) -> tuple[float, ...]:
        """Per axis of the image."""

    @property
    def has_label(self) -> bool:
        """Whether there is a mask."""


class Prepared(Protocol):
    """What is read of a prepared site."""

    @property
    def cases(self) -> Sequence[CaseInfo]:
        """All cases."""

    def image(self, index: int) -> np.ndarray:
        """Return an image [C, *S]."""

    def label(self, index: int) -> np.ndarray:
        """Return a mask [*S]."""


@dataclass(frozen=True, slots=True)
class OverlaySource:
    """Where pictures come from.

    Args:
        prepared: the site's cases.
        task: names the classes.
        predict: position of a case -> predicted label map [*S].
        evaluated: positions of the cases of the evaluated split.
        dice: position -> Dice per foreground class, of those with a mask.
        unlabeled: positions of training cases without a usable mask.
        pseudo: position -> stored pseudo-label and trust mask [F, *S], or None.
    """

    prepared: Prepared
    task: Task
    predict: Callable[[int], np.ndarray]
    evaluated: Sequence[int]
    dice: Mapping[int, Mapping[str, float]]
    unlabeled: Sequence[int]
    pseudo: Callable[[int], tuple[np.ndarray, np.ndarray] | None]


@dataclass(frozen=True, slots=True)
class _Chosen:
    kind: str
    case: int
    note: str
    values: Mapping[str, float]


def save_overlays(state: Path, source: OverlaySource, *, count: int) -> list[Path]:
    """Write pictures of some cases to `<state>/overlays/`, in place of older ones.

    Evaluated cases with a mask: `count` of them from the worst to the best mean Dice, as image,
    truth, prediction and differences; without any mask, images and predictions. Training cases
    with stored pseudo-labels: `count` from the least to the most trusted, as image, pseudo-label
    and trust mask, and the hidden truth where it is on disk.

    Args:
        state: the site's own directory.
        source: cases, predictions, stored maps.
        count: cases of each kind; 0 writes nothing.

    Returns:
        The pictures for people.
    """
    folder = state / "overlays"
    for old in (*folder.glob("*.png"), *folder.glob("overlays.jsonl")):
        old.unlink()
    lines: list[str] = []
    pictures: list[Path] = []
    for number, chosen in enumerate(_choose(source, count), start=1):
        identifier = f"{chosen.kind}-{number:02d}"
        entry = _write(folder, identifier, chosen, source)
        lines.append(json.dumps(entry))
        pictures.append(folder / f"{identifier}.png")
    if lines:
        write_atomically(folder / "overlays.jsonl", ("\n".join(lines) + "\n").encode())
    return pictures


def spread_over_ranks(values: Mapping[int, float], count: int) -> list[tuple[int, int]]:
    """Return (case, rank) of `count` cases from the smallest to the largest value, evenly by rank.

    Ranks count from 1; equal values are ordered by case.
    """
    ranked = sorted(values, key=lambda case: (values[case], case))
    places = np.linspace(0, len(ranked) - 1, min(count, len(ranked))).round().astype(int)
    return [(ranked[i], i + 1) for i in dict.fromkeys(places.tolist())]


def _choose(source: OverlaySource, count: int) -> list[_Chosen]:
    means = {case: sum(d.values()) / len(d) for case, d in source.dice.items()}
    chosen = []
    for case, rank in spread_over_ranks(means, count):
        values = {f"Dice {name}": value for name, value in source.dice[case].items()}
        chosen.append(_Chosen("test", case, _note(rank, len(means), "Dice"), values))
    if not means:
        by_position = {case: float(i) for i, case in enumerate(source.evaluated)}
        places = spread_over_ranks(by_position, count)
        chosen = [_Chosen("prediction", case, "no mask to compare with", {}) for case, _ in places]
    return chosen + _choose_pseudo(source, count)


def _choose_pseudo(source: OverlaySource, count: int) -> list[_Chosen]:
    stored = {case: source.pseudo(case) for case in source.unlabeled}
    trusted = {case: float(np.mean(maps[1])) for case, maps in stored.items() if maps is not None}
    return [
        _Chosen("pseudo", case, _note(rank, len(trusted), "trust"), {"trusted": trusted[case]})
        for case, rank in spread_over_ranks(trusted, count)
    ]


def _note(rank: int, of: int, value: str) -> str:
    if of == 1:
        return "the only case"
    return {1: f"lowest {value} of {of}", of: f"highest {value} of {of}"}.get(
        rank, f"rank {rank} of {of}"
    )


def _write(
    folder: Path, identifier: str, chosen: _Chosen, source: OverlaySource
) -> dict[str, object]:
    """Write the files of one case and return its line of the list."""
    drawing = _drawing(chosen, source)
    name = source.prepared.cases[chosen.case].name
    layers = {"image": f"{identifier}.image.png"}
    write_atomically(folder / layers["image"], encode_png(_stacked(drawing.image)))
    for panel_name, panel in drawing.panels.items():
        layers[panel_name] = f"{identifier}.{panel_name}.png"
        content = encode_png(_stacked(panel.layer), panel.palette)
        write_atomically(folder / layers[panel_name], content)
    numbers = "   ".join(f"{key} {value:.3f}" for key, value in chosen.values.items())
    picture = case_picture(drawing, title=name, subtitle=f"{chosen.note}   {numbers}")
    write_atomically(folder / f"{identifier}.png", picture)
    return {
        "id": identifier,
        "kind": chosen.kind,
        "case": name,
        "note": chosen.note,
        "values": dict(chosen.values),
        "slices": list(drawing.slices),
        "start": drawing.start,
        "depth": drawing.depth,
        "aspect": drawing.aspect,
        "layers": layers,
        "legends": {panel: dict(p.legend) for panel, p in drawing.panels.items()},
        "picture": f"{identifier}.png",
    }


def _drawing(chosen: _Chosen, source: OverlaySource) -> Drawing:
    info = source.prepared.cases[chosen.case]
    image = source.prepared.image(chosen.case)
    truth = source.prepared.label(chosen.case) if info.has_label else None
    stored = source.pseudo(chosen.case) if chosen.kind == "pseudo" else None
    if stored is not None:
        return draw_pseudo(image, info.spacing, source.task, *stored, truth)
    return draw_evaluated(image, info.spacing, source.task, source.predict(chosen.case), truth)


def _stacked(slices: np.ndarray) -> np.ndarray:
    """Put [N, H, W, ...] below each other."""
    return slices.reshape(-1, *slices.shape[2:])
