"""Builders of broken DICOM files and folders."""

from __future__ import annotations

import struct
import tempfile
from pathlib import Path

import numpy as np
from broken_corpus import VOLUME, Build, patched, saved
from dicom_files import write_series

STACK = VOLUME.astype(np.int16)


def one_file() -> bytes:
    """Return the bytes of one slice."""
    with tempfile.TemporaryDirectory() as folder:
        return next(write_series(Path(folder), STACK[:1]).iterdir()).read_bytes()


VALID = {"dcm": one_file()}


def with_tag(group: int, element: int, value: bytes) -> bytes:
    """Return the slice with the value of a tag of the same length overwritten."""
    content = VALID["dcm"]
    at = content.index(struct.pack("<HH", group, element), 132)
    # implicit elements have four bytes of length, explicit ones a type and two
    start = at + 8
    return patched(content, start, value)


def files() -> dict[str, Build]:
    """Single files with claims and nonsense."""
    content = VALID["dcm"]
    pixels = content.rindex(struct.pack("<HH", 0x7FE0, 0x0010))
    huge, zero = struct.pack("<H", 65535), struct.pack("<H", 0)
    contents = {
        "preamble only": content[:128],
        "magic only": content[:132],
        "no pixels": content[:pixels],
        "65535 rows": with_tag(0x28, 0x10, huge),
        "65535 columns": with_tag(0x28, 0x11, huge),
        "no rows": with_tag(0x28, 0x10, zero),
        "no columns": with_tag(0x28, 0x11, zero),
        "pixels that claim four gigabytes": patched(content, pixels + 4, b"\xfe\xff\xff\xff"),
        "an element that claims two gigabytes": patched(
            content, content.index(struct.pack("<HH", 8, 0x60), 132) + 4, b"\xff\xff\xff\x7f"
        ),
        "noise behind the magic": content[:132] + np.random.default_rng(0).bytes(800),
        "zeros behind the magic": content[:132] + bytes(800),
    }
    return {f"dcm with {what}": saved("x.dcm", data) for what, data in contents.items()}


def folders() -> dict[str, Build]:
    """Folders that are no series."""

    def empty(folder: Path) -> Path:
        (folder / "scan").mkdir()
        return folder / "scan"

    def series(spoil, **how) -> Build:
        def build(folder: Path) -> Path:
            scan = write_series(folder / "scan", STACK, **how)
            spoil(scan)
            return scan

        return build

    def link(scan: Path) -> None:
        (scan / "loop.dcm").symlink_to(scan / "loop.dcm")

    def nothing(scan: Path) -> None:
        pass

    return {
        "an empty folder": empty,
        "a folder of pictures": series(lambda scan: (scan / "s001.dcm").write_bytes(b"\x89PNG")),
        "a folder with an empty slice": series(lambda scan: (scan / "s001.dcm").write_bytes(b"")),
        "a folder with a link in a circle": series(link),
        "a folder of two series": series(lambda s: write_series(s, STACK, uid="7.7", name="t{}")),
        "a folder with a missing slice": series(nothing, leave_out=[3]),
        "a folder with one slice twice": series(
            lambda scan: write_series(scan, STACK[:1], name="again{}.dcm")
        ),
        "a folder of unevenly spaced slices": series(
            nothing, moved=lambda z, at: at + np.array([0, 0, 0.3 * z * z])
        ),
        "a folder of a tilted scan": series(
            nothing, moved=lambda z, at: at + np.array([0.5 * z, 0, 0])
        ),
        "a folder of slices at one place": series(nothing, moved=lambda z, at: at * 0),
    }


def truncations() -> dict[str, Build]:
    """A slice cut at many places."""
    content = VALID["dcm"]
    size = len(content)
    return {
        f"dcm cut to {keep} of {size}": saved("x.dcm", content[:keep])
        for keep in sorted({0, 3, *range(130, size, size // 12), size - 40, size - 2, size - 1})
    }
