"""A synthetic site as a source of cases: image i depends on its place only, never on call order."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass

import numpy as np

from fedssl.data.source import CaseRef
from fedssl.data.synthetic import fundus, prostate
from fedssl.data.synthetic.texture import Array, Rng
from fedssl.errors import DataError, did_you_mean
from fedssl.federation import SiteSpec
from fedssl.types import Case, Task

__all__ = ["GENERATOR_VERSION", "SyntheticSource"]

GENERATOR_VERSION = 1
"""Counts up whenever a picture changes; part of every seed and of `content_key`."""

Options = dict[str, int]
Draw = Callable[[Rng, Rng, Options], tuple[Array, np.ndarray]]

_SUBJECT, _EXPOSURE = 0, 1
_GROUP = 6
"""Of every six images the last two show the same subject."""


@dataclass(frozen=True, slots=True)
class _Kind:
    classes: tuple[str, ...]
    looks: tuple[fundus.FundusLook, ...] | tuple[prostate.ProstateLook, ...]
    volumes: bool
    images: int
    size: int
    draw: Draw


def _draw_fundus(anatomy: Rng, exposure: Rng, options: Options) -> tuple[Array, np.ndarray]:
    return fundus.draw_fundus(anatomy, exposure, options["size"], fundus.LOOKS[options["look"]])


def _draw_prostate(anatomy: Rng, exposure: Rng, options: Options) -> tuple[Array, np.ndarray]:
    look = prostate.LOOKS[options["look"]]
    return prostate.draw_prostate(anatomy, exposure, options["size"], look)


_KINDS = {
    "fundus": _Kind(fundus.CLASSES, fundus.LOOKS, False, 40, 96, _draw_fundus),
    "prostate": _Kind(prostate.CLASSES, prostate.LOOKS, True, 24, 64, _draw_prostate),
}


class SyntheticSource:
    """Cases that are drawn when they are read; every one has a mask.

    Site options: `kind` (`fundus` or `prostate`), `look` (index of the camera or scanner),
    `images` (how many), `size` (pixels per side). Two sites with the same kind and look but
    different names hold different subjects.

    Args:
        spec: a site with the layout `synthetic`.
        task: must have the classes and the mode that the kind draws.
    """

    def __init__(self, spec: SiteSpec, task: Task) -> None:
        self.spec = spec
        self._name, self._kind = _kind(spec)
        self._options = _options(spec, self._kind)
        _check_task(spec, self._kind, task)
        self.cases = tuple(
            CaseRef(f"image_{i:03d}", f"subject_{_subject(i):03d}", True)
            for i in range(self._options["images"])
        )

    def read(self, index: int) -> Case:
        """Draw one case: whole numbers 0..255 for colour pictures, magnitudes for volumes."""
        ref, look = self.cases[index], self._options["look"]
        image, label = self._kind.draw(
            self._rng(_SUBJECT, _subject(index)), self._rng(_EXPOSURE, index), self._options
        )
        if not self._kind.volumes:
            return Case(ref.name, ref.subject, image, label, (1.0, 1.0), "pixel")
        thickness, *plane = prostate.LOOKS[look].spacing
        shrink = self._kind.size / self._options["size"]
        return Case(ref.name, ref.subject, image, label, (thickness, *(p * shrink for p in plane)))

    def content_key(self) -> str:
        """Return a digest of everything that decides what `read` returns."""
        look = asdict(self._kind.looks[self._options["look"]])
        settings = [GENERATOR_VERSION, self._name, self.spec.name, self._options, look]
        text = json.dumps(settings, sort_keys=True)
        return hashlib.blake2b(text.encode(), digest_size=20).hexdigest()

    def _rng(self, purpose: int, index: int) -> Rng:
        place = hashlib.blake2b(f"{self._name}/{self.spec.name}".encode(), digest_size=8).digest()
        words = [GENERATOR_VERSION, int.from_bytes(place, "little"), purpose, index]
        return np.random.default_rng(np.random.SeedSequence(words))


def _subject(index: int) -> int:
    group, within = divmod(index, _GROUP)
    return group * (_GROUP - 1) + min(within, _GROUP - 2)


def _kind(spec: SiteSpec) -> tuple[str, _Kind]:
    name = str(spec.options.get("kind", "fundus"))
    if name not in _KINDS:
        raise DataError(
            f"Site {spec.name!r}: unknown option kind = {name!r}.{did_you_mean(name, _KINDS)} "
            f"Synthetic kinds: {', '.join(_KINDS)}."
        )
    return name, _KINDS[name]


def _options(spec: SiteSpec, kind: _Kind) -> Options:
    limits = {"look": (0, len(kind.looks) - 1), "images": (1, 999), "size": (32, 1024)}
    options = {"look": 0, "images": kind.images, "size": kind.size}
    for key, value in spec.options.items():
        if key == "kind":
            continue
        if key not in limits:
            raise DataError(
                f"Site {spec.name!r}: unknown option {key!r}.{did_you_mean(key, limits)} "
                f"A synthetic site knows kind, {', '.join(limits)}."
            )
        low, high = limits[key]
        if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
            raise DataError(
                f"Site {spec.name!r}: option {key} = {value!r} must be a whole number from {low} "
                f"to {high}."
            )
        options[key] = value
    return options


def _check_task(spec: SiteSpec, kind: _Kind, task: Task) -> None:
    if task.classes != kind.classes:
        raise DataError(
            f"Site {spec.name!r} draws the classes {list(kind.classes)}, but [task] has classes = "
            f"{list(task.classes)}."
        )
    if kind.volumes == (task.mode == "2d"):
        wanted = "'3d', '2.5d' or 'slices'" if kind.volumes else "'2d'"
        raise DataError(
            f"Site {spec.name!r} draws {'volumes' if kind.volumes else 'pictures'}, but [task] has "
            f"mode = {task.mode!r}; it takes {wanted}."
        )
    channels = 1 if kind.volumes else 3
    given = task.channels // 3 if task.mode == "2.5d" else task.channels
    if given != channels:
        raise DataError(
            f"Site {spec.name!r} draws {channels} channel(s), but [task] has channels = {given}. "
            f"Set channels = {channels}."
        )
