"""Builders of broken files of the array formats: npy, HDF5, MATLAB, GIF, raw JSRT."""

from __future__ import annotations

import pickle
import struct
import zlib
from io import BytesIO

import numpy as np
from broken_corpus import PICTURE, VOLUME, Build, patched, saved
from broken_hdf5 import both, hdf5, of, written
from PIL import Image
from refusals import NOT_IMAGES
from scipy.io import savemat


def npy(array: np.ndarray, **options) -> bytes:
    """Return the bytes of an .npy file."""
    stream = BytesIO()
    np.save(stream, array, **options)
    return stream.getvalue()


def matlab(variables: dict[str, object], *, packed: bool = True) -> bytes:
    """Return the bytes of a .mat file of version 5."""
    return written("mat", lambda path: savemat(path, variables, do_compression=packed))


def gif(array: np.ndarray) -> bytes:
    """Return the bytes of a GIF."""
    return written("gif", lambda path: Image.fromarray(array).save(path))


PAIR = {"image": VOLUME, "label": VOLUME}
ARRAYS = {
    "npy": npy(VOLUME),
    "plain.h5": hdf5(both()),
    "packed.h5": hdf5(both(compression="gzip")),
    "new.h5": hdf5(both(compression="gzip"), libver="latest"),
    "packed.mat": matlab(PAIR),
    "plain.mat": matlab(PAIR, packed=False),
    "gif": gif(np.kron(PICTURE, np.ones((4, 4), np.uint8))),
}
"""Valid files by `<name.>suffix`; image and label are found without a key."""


def npy_header(text: str, body: bytes = b"", version: bytes = b"\1\0") -> bytes:
    """Return an .npy file with a header of our own."""
    return b"\x93NUMPY" + version + struct.pack("<H", len(text)) + text.encode("latin-1") + body


def npys() -> dict[str, Build]:
    """Pickles, claims and nonsense."""
    objects = np.array([[1, "x"], [None, 2]], dtype=object)
    shape = "{{'descr': '<f8', 'fortran_order': False, 'shape': {}, }}\n"
    headers = {
        "huge": shape.format("(1000000, 1000000)"),
        "beyond 64 bits": shape.format("(99999999999, 99999999999, 99999999999)"),
        "negative": shape.format("(-5, 7)"),
        "zero": shape.format("(0, 7)"),
        "one axis": shape.format("(7,)"),
        "no axis": shape.format("()"),
        "five axes": shape.format("(1, 1, 1, 1, 7)"),
        "no shape": "{'descr': '<f8'}\n",
        "a list": "[1, 2, 3]\n",
        "a call": "__import__('os').system('true')\n",
        "deep nesting": "(" * 9000 + "\n",
        "an unknown type": "{'descr': '<q9', 'fortran_order': False, 'shape': (2, 2), }\n",
        "text values": "{'descr': '<U4', 'fortran_order': False, 'shape': (2, 2), }\n",
        "records": "{'descr': [('a', '<f8')], 'fortran_order': False, 'shape': (2, 2), }\n",
        "an open string": "{'descr': '<f8\n",
    }
    found = {
        f"npy header: {what}": saved("x.npy", npy_header(text, bytes(64)))
        for what, text in headers.items()
    }
    found["npy of version 9"] = saved("x.npy", npy_header("{}", version=b"\x09\0"))
    found["npy with a pickle"] = saved("x.npy", npy(objects, allow_pickle=True))
    found["a bare pickle as npy"] = saved("x.npy", pickle.dumps(VOLUME))
    found["complex numbers in npy"] = saved("x.npy", npy(VOLUME * 1j))
    found["dates in npy"] = saved("x.npy", npy(VOLUME.astype("M8[s]")))
    zipped = written("npz", lambda path: np.savez(path, image=VOLUME))
    found["npz as npy"] = saved("x.npy", zipped)
    return found


def element(kind: int, data: bytes) -> bytes:
    """Return an element of a .mat file."""
    return struct.pack("<II", kind, len(data)) + data + bytes(-len(data) % 8)


def matrix(
    name: str, shape: tuple[int, ...], values: bytes, *, kind: int = 9, flags: int = 0
) -> bytes:
    """Return a matrix element of class `kind` (9: uint8)."""
    return element(
        14,
        element(6, struct.pack("<II", kind | flags, 0))
        + element(5, struct.pack(f"<{len(shape)}i", *shape))
        + element(1, name.encode())
        + values,
    )


def mat_file(*variables: bytes) -> bytes:
    """Return a .mat file of elements."""
    return b"MATLAB 5.0".ljust(124) + b"\0\1IM" + b"".join(variables)


def mats() -> dict[str, Build]:
    """Variables that are none, claims, and versions that are not read."""
    numbers = element(2, bytes(12))

    def pair(shape: tuple[int, ...], values: bytes = numbers, **options: int) -> bytes:
        return mat_file(*(matrix(n, shape, values, **options) for n in ("image", "label")))

    def packed(raw: bytes) -> bytes:
        return struct.pack("<II", 15, len(raw)) + raw

    bomb = zlib.compress(matrix("image", (1, 1), b"")[:40] + bytes(30_000_000), 9)
    contents = {
        "huge shape": pair((2**31 - 1, 2**31 - 1)),
        "shape that does not fit": pair((5, 5)),
        "negative shape": pair((-3, -4)),
        "one axis": pair((12,)),
        "length of zero": pair((0, 4), element(2, b"")),
        "values beyond the end": pair((3, 4), struct.pack("<II", 2, 2**31)),
        "unknown number type": pair((3, 4), element(99, bytes(12))),
        "four axes": pair((1, 3, 2, 2)),
        "text": pair((3, 4), kind=4),
        "a struct": pair((1, 1), kind=2),
        "a sparse matrix": pair((3, 4), kind=5),
        "complex numbers": pair((3, 4), flags=0x800),
        "a cell array without a number": pair((1, 1), matrix("", (3, 4), numbers), kind=1),
        "no variables": mat_file(),
        "other names": mat_file(matrix("scan", (3, 4), numbers)),
        "a huge name": mat_file(
            element(14, element(6, bytes(8)) + element(5, bytes(8)) + struct.pack("<II", 1, 2**30))
        ),
        "a short element that is too long": mat_file(
            element(14, struct.pack("<I", 9 << 16 | 6) + bytes(4))
        ),
        "a damaged deflated part": mat_file(packed(b"\x78\x9c" + bytes(50))),
        "an endless deflated part": mat_file(packed(zlib.compress(bytes(30_000_000), 9))),
        "a deflated claim": mat_file(packed(bomb)),
        "version 4": struct.pack("<5i", 0, 2, 2, 0, 6) + b"image\0" + bytes(32) + bytes(100),
        "another version": b"MATLAB".ljust(124) + b"\0\7IM" + bytes(64),
        "no byte order": b"MATLAB".ljust(124) + b"\0\1XX" + bytes(64),
    }
    return {f"mat with {what}": saved("x.mat", content) for what, content in contents.items()}


def gifs() -> dict[str, Build]:
    """Claims, animations and nothing."""
    content = ARRAYS["gif"]
    frames = [Image.fromarray(PICTURE), Image.fromarray(PICTURE[::-1].copy())]
    film = written(
        "gif", lambda path: frames[0].save(path, save_all=True, append_images=frames[1:])
    )
    start = content.index(b"\x2c") if b"\x2c" in content[780:] else 0
    start = content.index(b"\x2c", 781)
    return {
        "gif of 65535 x 65535": saved("x.gif", patched(content, 6, b"\xff" * 4)),
        "gif of no width": saved("x.gif", patched(content, 6, bytes(2))),
        "gif whose picture is larger than its screen": saved(
            "x.gif", patched(content, start + 5, struct.pack("<HH", 65535, 65535))
        ),
        "gif with two pictures": saved("x.gif", film),
        "gif without a picture": saved("x.gif", content[:13] + b"\x3b"),
        "gif header only": saved("x.gif", content[:8]),
    }


def raws() -> dict[str, Build]:
    """Raw radiographs of another length."""
    return {
        "img of no bytes": saved("x.img", b""),
        "img of a few bytes": saved("x.IMG", bytes(100)),
        "img with one byte too many": saved("x.img", bytes(2 * 2048 * 2048 + 1)),
        "img with swapped bytes": saved("x.img", struct.pack("<H", 4000) * (2048 * 2048)),
    }


def not_finite_arrays() -> dict[str, Build]:
    """NaN and infinities."""
    found: dict[str, Build] = {}
    for value in (np.nan, np.inf, -np.inf, 1e300):
        array = VOLUME.astype(np.float64)
        array[1, 2, 3] = value
        pair = {"image": array, "label": array}
        found[f"{value} in npy"] = saved("x.npy", npy(array))
        found[f"{value} in mat"] = saved("x.mat", matlab(pair))

        found[f"{value} in h5"] = saved("x.h5", hdf5(of(array)))
    return found


def array_strangers() -> dict[str, Build]:
    """Content of another kind under the suffixes of the array formats."""
    contents = {
        **NOT_IMAGES,
        "nothing": b"",
        **{name: content for name, content in ARRAYS.items() if name in ("npy", "gif")},
    }
    return {
        f"{what} as {suffix}": saved(f"x.{suffix}", content)
        for suffix in ("npy", "h5", "hdf5", "mat", "gif", "img", "dcm")
        for what, content in contents.items()
        if what != suffix
    }


def array_truncations() -> dict[str, Build]:
    """Every array format, cut at seven places."""
    cuts: dict[str, Build] = {}
    for name, content in ARRAYS.items():
        size = len(content)
        for keep in sorted({0, 3, size // 10, size // 3, size // 2, size * 9 // 10, size - 1}):
            cuts[f"{name} cut to {keep} of {size}"] = saved(f"x.{name}", content[:keep])
    return cuts
