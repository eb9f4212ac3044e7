"""Builders of broken HDF5 files, also as MATLAB 7.3 writes them."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
from broken_corpus import VOLUME, Build, patched, saved


def written(suffix: str, write: Callable[[Path], object]) -> bytes:
    """Return the bytes of what a function writes to a path."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"x.{suffix}"
        write(path)
        return path.read_bytes()


def hdf5(fill: Callable[[h5py.File], object], **options) -> bytes:
    """Return the bytes of an HDF5 file that a function fills."""

    def write(path: Path) -> None:
        with h5py.File(path, "w", **options) as file:
            fill(file)

    return written("h5", write)


def both(**options) -> Callable[[h5py.File], None]:
    """Return a function that stores a volume as image and as label."""

    def fill(file: h5py.File) -> None:
        for name in ("image", "label"):
            file.create_dataset(name, data=VOLUME, **options)

    return fill


def _group(file: h5py.File) -> None:
    file["image/inner"] = VOLUME
    file["label/inner"] = VOLUME


def _renamed(file: h5py.File) -> None:
    file["scan"] = VOLUME


def _link(target: object) -> Callable[[h5py.File], None]:
    def fill(file: h5py.File) -> None:
        file["image"] = file["label"] = target

    return fill


def _virtual(file: h5py.File) -> None:
    layout = h5py.VirtualLayout(shape=VOLUME.shape, dtype="u1")
    layout[...] = h5py.VirtualSource("/etc/passwd", "image", shape=VOLUME.shape)
    for name in ("image", "label"):
        file.create_virtual_dataset(name, layout)


def _claimed(shape: tuple[int, ...], **options) -> Callable[[h5py.File], None]:
    def fill(file: h5py.File) -> None:
        for name in ("image", "label"):
            file.create_dataset(name, shape=shape, **{"dtype": "f4", **options})

    return fill


def of(value: object, **options) -> Callable[[h5py.File], None]:
    """Return a function that stores a value as image and as label."""

    def fill(file: h5py.File) -> None:
        for name in ("image", "label"):
            file.create_dataset(name, data=value, **options)

    return fill


def hdf5s() -> dict[str, Build]:
    """Datasets that are none, lie elsewhere, or claim too much."""

    outside = {"external": [("/etc/passwd", 0, 840)]}
    fills = {
        "nothing": lambda file: None,
        "other names": _renamed,
        "groups": _group,
        "external links": _link(h5py.ExternalLink("/etc/passwd", "/image")),
        "dead links": _link(h5py.SoftLink("/gone")),
        "links in a circle": _link(h5py.SoftLink("/image")),
        "virtual datasets": _virtual,
        "values in another file": _claimed((7, 30), **outside),
        "huge": _claimed((60_000, 60_000, 60_000), chunks=(64, 64, 64)),
        "large and never written": _claimed((4000, 4000)),
        "a huge chunk": _claimed((9, 9), chunks=(30_000, 30_000), maxshape=(None, None)),
        "no axis": of(3.0),
        "one axis": of(np.arange(5.0)),
        "four axes": of(np.zeros((2, 2, 2, 2))),
        "a length of zero": of(np.zeros((0, 5))),
        "text": of([b"a", b"b"]),
        "complex numbers": of(np.ones((2, 2), np.complex64)),
        "records": of(np.zeros((2, 2), dtype=[("a", "f4")])),
        "no space": of(h5py.Empty("f4")),
        "references": _claimed((2, 2), dtype=h5py.ref_dtype),
        "lists of varying length": _claimed((2, 2), dtype=h5py.vlen_dtype(np.int32)),
    }
    found = {f"h5 with {what}": saved("x.h5", hdf5(fill)) for what, fill in fills.items()}
    damaged = bytearray(hdf5(both(compression="gzip")))
    stream = damaged.rindex(b"\x78\x5e") if b"\x78\x5e" in damaged else damaged.rindex(b"\x78\x9c")
    damaged[stream + 4 : stream + 30] = bytes(26)
    first = damaged.index(damaged[stream : stream + 2])
    damaged[first + 4 : first + 30] = bytes(26)
    found["h5 with damaged deflated values"] = saved("x.h5", bytes(damaged))
    return found


def v73s() -> dict[str, Build]:
    """Version 7.3: HDF5 behind a block of text."""

    def text_before(fill: Callable[[h5py.File], object]) -> bytes:
        return patched(hdf5(fill, userblock_size=512), 0, b"MATLAB 7.3".ljust(124) + b"\0\2IM")

    def cells(file: h5py.File) -> None:
        file["#refs#/a"] = VOLUME
        for name in ("image", "label"):
            file[name] = np.array([[file["#refs#/a"].ref]], dtype=h5py.ref_dtype)

    def struct_like(file: h5py.File) -> None:
        file["image/field"] = VOLUME
        file["label/field"] = VOLUME

    whole = text_before(both())
    return {
        "mat 7.3 with cells but no number": saved("x.mat", text_before(cells)),
        "mat 7.3 with structs": saved("x.mat", text_before(struct_like)),
        "mat 7.3 with other names": saved("x.mat", text_before(lambda f: f.create_group("scan"))),
        "mat 7.3 with external links": saved(
            "x.mat",
            text_before(
                lambda f: [
                    f.__setitem__(n, h5py.ExternalLink("/etc/passwd", "/a"))
                    for n in ("image", "label")
                ]
            ),
        ),
        "mat 7.3 with text only": saved("x.mat", whole[:512]),
        "mat 7.3 cut in two": saved("x.mat", whole[: len(whole) // 2]),
    }
