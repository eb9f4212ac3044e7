"""More builders for `test_broken_inputs`: wrong values, grids, places, masks; odd right files."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
from broken_corpus import (
    COLOUR,
    FLOATS,
    PICTURE,
    VALID,
    VOLUME,
    Build,
    encoded,
    patched,
    saved,
    with_text,
)
from PIL import Image


def not_finite() -> dict[str, Build]:
    """NaN and infinities in every format that can hold them."""
    found: dict[str, Build] = {}
    for value in (np.nan, np.inf, -np.inf):
        for dtype in (np.float32, np.float64):
            array = FLOATS.astype(dtype)
            array[2, 3, 4] = value
            for suffix in ("nii", "nii.gz", "mha", "nrrd"):
                name = f"{value} in {np.dtype(dtype)} {suffix}"
                found[name] = saved(f"x.{suffix}", encoded(suffix, array))
        plane = FLOATS[0].copy()
        plane[1, 1] = value
        found[f"{value} in tif"] = saved("x.tif", encoded("tif", plane))
    scaled = patched(VALID["nii"], 112, struct.pack("<f", np.inf))
    found["infinite scale factor in nii"] = saved("x.nii", scaled)
    return found


def geometries() -> dict[str, Build]:
    """Spacings and directions that make no grid."""
    found: dict[str, Build] = {}
    spacing = b"ElementSpacing = 1 1 1"
    matrix = b"TransformMatrix = 1 0 0 0 1 0 0 0 1"
    space = b"space directions: (1,0,0) (0,1,0) (0,0,1)"
    for what in ("-1 1 1", "0 1 1", "nan 1 1", "inf 1 1", "1", "", "x y z", "1e300 1 1"):
        changed = with_text("mha", spacing, b"ElementSpacing = " + what.encode())
        found[f"spacing {what!r} in mha"] = saved("x.mha", changed)
    for what in (
        "0 0 0 0 0 0 0 0 0",
        "1 1 1 1 1 1 1 1 1",
        "nan 0 0 0 1 0 0 0 1",
        "1 0",
        "1 0.5 0 0 1 0 0 0 1",
        "1e9 0 0 0 1e9 0 0 0 1e9",
    ):
        changed = with_text("mha", matrix, b"TransformMatrix = " + what.encode())
        found[f"direction {what!r} in mha"] = saved("x.mha", changed)
    for what in (
        "(0,0,0) (0,1,0) (0,0,1)",
        "(1,1,0) (1,1,0) (0,0,1)",
        "(nan,0,0) (0,1,0) (0,0,1)",
        "(1,0.4,0) (0,1,0) (0,0,1)",
        "none none none",
        "(-1,0,0) (0,-1,0) (0,0,-1)",
    ):
        changed = with_text("nrrd", space, b"space directions: " + what.encode())
        found[f"directions {what!r} in nrrd"] = saved("x.nrrd", changed)
    for what in (-1.0, 0.0, float("nan"), float("inf"), 1e30):
        changed = patched(VALID["nii"], 80, struct.pack("<f", what))
        found[f"spacing {what} in nii"] = saved("x.nii", changed)
    for what in ((0,) * 4, (1.0, 0.5, 0, 0), (float("nan"),) * 4, (1e30,) * 4):
        changed = patched(VALID["nii"], 280, struct.pack("<4f", *what))
        found[f"first sform row {what} in nii"] = saved("x.nii", changed)
    return found


def detached() -> dict[str, Build]:
    """MetaImage and NRRD headers whose pixels lie elsewhere, or nowhere."""
    meta = VALID["mha"].split(b"ElementDataFile")[0] + b"ElementDataFile = %s\n"
    nrrd = VALID["nrrd"].split(b"\n\n")[0] + b"\ndata file: %s\n\n"
    found: dict[str, Build] = {}
    names = (
        b"gone.raw",
        b"../gone.raw",
        b"/nowhere/gone.raw",
        b"LIST",
        b"s%03d.raw 1 5 1",
        b".",
        b"x.mhd",
        b"a" * 3000,
        b"\xff\xfe.raw",
    )
    for name in names:
        label = name[:20].decode("latin-1")
        found[f"mhd with pixels in {label}"] = saved("x.mhd", meta.replace(b"%s", name))
        found[f"nrrd with pixels in {label}"] = saved("x.nrrd", nrrd.replace(b"%s", name))

    def short(folder: Path) -> Path:
        (folder / "short.raw").write_bytes(b"123")
        return saved("x.mhd", meta.replace(b"%s", b"short.raw"))(folder)

    found["mhd with too few pixels"] = short
    return found


def places() -> dict[str, Build]:
    """Paths that lead to no file."""

    def missing(folder: Path) -> Path:
        return folder / "gone.png"

    def directory(folder: Path) -> Path:
        (folder / "dir.nii.gz").mkdir()
        return folder / "dir.nii.gz"

    def loop(folder: Path) -> Path:
        (folder / "loop.png").symlink_to(folder / "loop.png")
        return folder / "loop.png"

    def dead(folder: Path) -> Path:
        (folder / "dead.png").symlink_to(folder / "nowhere.png")
        return folder / "dead.png"

    return {
        "a missing file": missing,
        "a directory named like a file": directory,
        "a link in a circle": loop,
        "a dead link": dead,
        "an unknown suffix": saved("x.webp", b"RIFF"),
        "no suffix": saved("x", VALID["png"]),
        "grey with alpha": pillow("x.png", Image.fromarray(np.stack([PICTURE, PICTURE], -1))),
    }


def pillow(name: str, image: Image.Image, **options) -> Build:
    """Return a builder that lets Pillow write the file."""

    def build(folder: Path) -> Path:
        image.save(folder / name, **options)
        return folder / name

    return build


def link_of(tif: bytes) -> int:
    """Return where the first page of a TIFF tells the place of the second."""
    first = struct.unpack_from("<I", tif, 4)[0]
    return first + 2 + 12 * struct.unpack_from("<H", tif, first)[0]


def pages() -> dict[str, Build]:
    """TIFF files whose chain of pages does not end well."""
    content = VALID["tif"]
    first = struct.unpack_from("<I", content, 4)[0]
    link = link_of(content)
    offsets = {
        "to itself": first,
        "into the header": 1,
        "beyond the end": 2**31,
        "to the end": len(content),
    }
    found = {
        f"a tif page that leads {what}": saved(
            "x.tif", patched(content, link, struct.pack("<I", offset))
        )
        for what, offset in offsets.items()
    }
    stack = encoded("tif", VOLUME)
    second = struct.unpack_from("<I", stack, link_of(stack))[0]
    for what, entry, value in (("width", 1, 9), ("height", 2, 99), ("bits", 3, 16), ("kind", 0, 0)):
        changed = patched(stack, second + 2 + 12 * entry + 8, struct.pack("<I", value))
        found[f"tif pages of different {what}"] = saved("x.tif", changed)
    huge = patched(patched(content, 2, struct.pack("<H", 43)), 8, b"\xff" * 8)
    found["a big tif whose page lies nowhere"] = saved("x.tif", huge)
    found["a tif without pages"] = saved("x.tif", patched(content, 4, bytes(4)))
    return found


def masks() -> dict[str, Build]:
    """Readable images that are no masks."""
    rgba = np.concatenate([COLOUR, PICTURE[..., None]], axis=-1)
    palette = Image.fromarray(PICTURE % 4).convert("P")
    palette.putpalette([255, 0, 0, 0, 0, 0, 0, 255, 0, 0, 0, 255])  # as compressors order colours
    fraction, undefined = FLOATS.copy(), (FLOATS > 0).astype(np.float32)
    undefined[0, 0, 0] = np.nan
    return {
        "a colour png": saved("x.png", VALID["colour.png"]),
        "a colour jpg": saved("x.jpg", VALID["colour.jpg"]),
        "an rgba png": pillow("x.png", Image.fromarray(rgba)),
        "a png of three colours in a palette": pillow("x.png", palette),
        "fractions in nii.gz": saved("x.nii.gz", encoded("nii.gz", fraction)),
        "fractions in tif": saved("x.tif", encoded("tif", fraction[0])),
        "nan in mha": saved("x.mha", encoded("mha", undefined)),
        "nan in nii": saved("x.nii", encoded("nii", undefined)),
        "1e300 in nrrd": saved("x.nrrd", encoded("nrrd", FLOATS.astype(float) * 1e300)),
        "vectors in nii.gz": saved("x.nii.gz", VALID["vector.nii.gz"]),
        "time points in nii.gz": saved(
            "x.nii.gz", encoded("nii.gz", np.stack([VOLUME, VOLUME.T.copy().reshape(VOLUME.shape)]))
        ),
    }


def valid() -> dict[str, tuple[Build, np.ndarray]]:
    """Unusual files that are right, with their [C, *S]."""
    bits = Image.fromarray((PICTURE > 99).astype(np.uint8) * 255).convert("1")
    palette = Image.fromarray(PICTURE % 2).convert("P")
    palette.putpalette([0, 0, 0, 10, 20, 30])
    colours = np.array([[0, 0, 0], [10, 20, 30]])[PICTURE % 2]
    swapped = np.frombuffer(VALID["float.nii"][352:], "<f4").astype(">f4").tobytes()
    return {
        "a name with umlauts": (saved("h\u00fcfte \u00e4.png", VALID["png"]), PICTURE[None]),
        "a name in chinese": (saved("\u5fc3\u81df.nii.gz", VALID["nii.gz"]), VOLUME[None]),
        "an emoji in nrrd": (saved("\U0001fac0.nrrd", VALID["nrrd"]), VOLUME[None]),
        "a name with spaces": (saved("my scan (1).mha", VALID["mha"]), VOLUME[None]),
        "a name with quotes": (saved('it\'s "x".tif', VALID["tif"]), PICTURE[None]),
        "a name with a percent sign": (saved("100%d.png", VALID["png"]), PICTURE[None]),
        "a name with dots": (saved("1.2.840.1.nii.gz", VALID["nii.gz"]), VOLUME[None]),
        "a long name": (saved("n" * 240 + ".png", VALID["png"]), PICTURE[None]),
        "capital letters": (saved("X.NII.GZ", VALID["nii.gz"]), VOLUME[None]),
        "sixteen bits": (saved("x.png", VALID["deep.png"]), PICTURE[None] * 200.0),
        "one bit": (pillow("x.png", bits), (PICTURE > 99)[None] * 255.0),
        "a palette": (pillow("x.png", palette), np.moveaxis(colours, -1, 0)),
        "a stack of pages": (saved("x.tif", encoded("tif", VOLUME)), VOLUME[None]),
        "floats in tif": (saved("x.tif", encoded("tif", FLOATS[0])), FLOATS[:1]),
        "doubles": (saved("x.nrrd", encoded("nrrd", FLOATS.astype(float))), FLOATS[None]),
        "64-bit integers": (saved("x.mha", encoded("mha", VOLUME.astype(np.int64))), VOLUME[None]),
        "lzw": (
            pillow("x.tif", Image.fromarray(COLOUR), compression="tiff_lzw"),
            np.moveaxis(COLOUR, -1, 0),
        ),
        "the other byte order": (saved("x.nii", big_endian() + swapped), FLOATS[None]),
        "bytes after the end": (saved("x.nii", VALID["nii"] + b"tail"), VOLUME[None]),
        "packed nrrd": (saved("x.nrrd", VALID["packed.nrrd"]), VOLUME[None]),
        "packed mha": (saved("x.mha", VALID["packed.mha"]), VOLUME[None]),
    }


def big_endian() -> bytes:
    """Return the 352 bytes of the float volume's header in big-endian order."""
    head = bytearray(VALID["float.nii"][:352])
    fields = [
        ("i", 0),
        *(("h", at) for at in range(40, 76, 2)),
        *(("f", at) for at in range(76, 120, 4)),
        *(("h", at) for at in (252, 254)),
        *(("f", at) for at in range(256, 328, 4)),
    ]
    for kind, at in fields:
        struct.pack_into(">" + kind, head, at, *struct.unpack_from("<" + kind, head, at))
    return bytes(head)
