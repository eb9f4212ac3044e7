"""Builders of broken and odd files for `test_broken_inputs`; every one is made from scratch."""

from __future__ import annotations

import gzip
import struct
import tempfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import SimpleITK as sitk  # noqa: N813 -- its customary name
from refusals import NOT_IMAGES

VOLUME = np.random.default_rng(0).integers(0, 255, (5, 6, 7)).astype(np.uint8)
PICTURE = np.random.default_rng(1).integers(0, 255, (12, 10)).astype(np.uint8)
COLOUR = np.random.default_rng(2).integers(0, 255, (12, 10, 3)).astype(np.uint8)
FLOATS = np.random.default_rng(3).normal(size=(5, 6, 7)).astype(np.float32)

Build = Callable[[Path], Path]


def encoded(
    suffix: str, array: np.ndarray, *, vector: bool = False, compress: bool = False, **geometry
) -> bytes:
    """Return the bytes of an array as a file."""
    image = sitk.GetImageFromArray(array, isVector=vector)
    for name, value in geometry.items():
        getattr(image, f"Set{name}")(value)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"x.{suffix}"
        sitk.WriteImage(image, str(path), compress)
        return path.read_bytes()


VALID = {
    "nii": encoded("nii", VOLUME),
    "float.nii": encoded("nii", FLOATS),
    "nii.gz": encoded("nii.gz", VOLUME),
    "vector.nii.gz": encoded("nii.gz", np.stack([FLOATS, -FLOATS], -1), vector=True),
    "mha": encoded("mha", VOLUME),
    "packed.mha": encoded("mha", VOLUME, compress=True),
    "nrrd": encoded("nrrd", VOLUME),
    "packed.nrrd": encoded("nrrd", VOLUME, compress=True),
    "png": encoded("png", PICTURE),
    "colour.png": encoded("png", COLOUR, vector=True),
    "deep.png": encoded("png", PICTURE.astype(np.uint16) * 200),
    "jpg": encoded("jpg", PICTURE),
    "colour.jpg": encoded("jpg", COLOUR, vector=True),
    "tif": encoded("tif", PICTURE),
    "packed.tif": encoded("tif", COLOUR, vector=True, compress=True),
    "bmp": encoded("bmp", COLOUR, vector=True),
}
"""Valid files by `<name.>suffix`."""


def saved(name: str, content: bytes) -> Build:
    """Return a builder that writes one file."""

    def build(folder: Path) -> Path:
        path = folder / name
        path.write_bytes(content)
        return path

    return build


def patched(content: bytes, at: int, value: bytes) -> bytes:
    """Overwrite bytes."""
    return content[:at] + value + content[at + len(value) :]


def truncations() -> dict[str, Build]:
    """Every format, cut at seven places."""
    cuts: dict[str, Build] = {}
    for name, content in VALID.items():
        size = len(content)
        for keep in sorted({0, 3, size // 10, size // 3, size // 2, size * 9 // 10, size - 1}):
            cuts[f"{name} cut to {keep} of {size}"] = saved(f"x.{name}", content[:keep])
    return cuts


def strangers() -> dict[str, Build]:
    """Content of another kind under every suffix."""
    contents = {
        **NOT_IMAGES,
        "a line feed": b"\n",
    }
    suffixes = ("nii", "nii.gz", "mha", "mhd", "nrrd", "png", "jpg", "jpeg", "tif", "tiff", "bmp")
    found = {
        f"{what} as {suffix}": saved(f"x.{suffix}", content)
        for suffix in suffixes
        for what, content in contents.items()
    }
    found["gzipped noise as nii.gz"] = saved("x.nii.gz", gzip.compress(NOT_IMAGES["noise"]))
    found["nothing gzipped as nii.gz"] = saved("x.nii.gz", gzip.compress(b""))
    for inside, outside in (
        ("png", "jpg"),
        ("jpg", "png"),
        ("nii", "nrrd"),
        ("nrrd", "nii"),
        ("nii", "nii.gz"),
        ("nii.gz", "nii"),
        ("bmp", "tif"),
        ("tif", "bmp"),
        ("mha", "nii"),
        ("png", "mha"),
    ):
        found[f"{inside} named {outside}"] = saved(f"x.{outside}", VALID[inside])
    return found


def png_with_size(width: int, height: int) -> bytes:
    """Return a PNG whose header claims a size, with a right checksum."""
    header = struct.pack(">II", width, height) + VALID["png"][24:29]
    checksum = struct.pack(">I", zlib.crc32(b"IHDR" + header))
    return patched(VALID["png"], 16, header + checksum)


def with_text(name: str, old: bytes, new: bytes) -> bytes:
    """Replace a header line of MetaImage or NRRD."""
    content = VALID[name]
    assert content.count(old) == 1, (name, old, content[:400])
    return content.replace(old, new)


def jpeg_with_size(width: int, height: int) -> bytes:
    """Return a JPEG whose frame header claims a size."""
    at = VALID["jpg"].index(b"\xff\xc2") + 5  # ITK writes progressive files
    return patched(VALID["jpg"], at, struct.pack(">HH", height, width))


def tiff_with_size(width: int, height: int) -> bytes:
    """Return a TIFF whose first directory claims a size."""
    content = VALID["tif"]
    at = struct.unpack_from("<I", content, 4)[0]
    for entry in range(struct.unpack_from("<H", content, at)[0]):
        place = at + 2 + 12 * entry
        tag = struct.unpack_from("<H", content, place)[0]
        if tag in (256, 257):
            value = width if tag == 256 else height
            content = patched(content, place + 2, struct.pack("<HII", 4, 1, value))
    return content


def claims() -> dict[str, Build]:
    """Headers with huge, zero or negative dimensions."""
    found: dict[str, Build] = {}
    dims = {
        "huge": (32767, 32767, 32767),
        "large": (3000, 3000, 3000),
        "zero": (7, 0, 5),
        "negative": (7, -6, 5),
    }
    for what, size in dims.items():
        nifti = patched(VALID["nii"], 42, struct.pack("<3h", *size))
        found[f"{what} nii"] = saved("x.nii", nifti)
        found[f"{what} nii.gz"] = saved("x.nii.gz", gzip.compress(nifti))
        text = " ".join(map(str, size)).encode()
        found[f"{what} mha"] = saved(
            "x.mha", with_text("mha", b"DimSize = 7 6 5", b"DimSize = " + text)
        )
        found[f"{what} packed mha"] = saved(
            "x.mha", with_text("packed.mha", b"DimSize = 7 6 5", b"DimSize = " + text)
        )
        for name in ("nrrd", "packed.nrrd"):
            changed = with_text(name, b"sizes: 7 6 5", b"sizes: " + text)
            found[f"{what} {name}"] = saved("x.nrrd", changed)
    for what, pair in {
        "huge": (2**31 - 1, 2**31 - 1),
        "large": (40_000, 40_000),
        "zero": (0, 12),
    }.items():
        width, height = pair
        found[f"{what} png"] = saved("x.png", png_with_size(width, height))
        found[f"{what} bmp"] = saved(
            "x.bmp", patched(VALID["bmp"], 18, struct.pack("<ii", min(width, 2**31 - 1), height))
        )
        found[f"{what} jpg"] = saved("x.jpg", jpeg_with_size(min(width, 65500), min(height, 65500)))
        found[f"{what} tif"] = saved("x.tif", tiff_with_size(width, height))
    many = patched(VALID["nii"], 40, struct.pack("<8h", 7, 2, 2, 2, 2, 2, 2, 2))
    found["seven axes in nii"] = saved("x.nii", many)
    found["nine axes in nii"] = saved("x.nii", patched(VALID["nii"], 40, struct.pack("<h", 9)))
    found["1000 axes in mha"] = saved("x.mha", with_text("mha", b"NDims = 3", b"NDims = 1000"))
    found["no axes in nrrd"] = saved("x.nrrd", with_text("nrrd", b"dimension: 3", b"dimension: 0"))
    found["unknown type in nii"] = saved("x.nii", patched(VALID["nii"], 70, struct.pack("<h", 77)))
    found["unknown type in mha"] = saved("x.mha", with_text("mha", b"MET_UCHAR", b"MET_FANCY"))
    found["unknown type in nrrd"] = saved(
        "x.nrrd", with_text("nrrd", b"type: unsigned char", b"type: fancy")
    )
    found["scaled vectors in nii"] = saved(
        "x.nii",
        patched(encoded("nii", np.stack([VOLUME] * 2, -1), vector=True), 112, struct.pack("<f", 2)),
    )
    return found
