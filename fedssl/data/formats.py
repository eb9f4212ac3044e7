"""File formats that can be read, and what can be checked before a decoder sees a file.

ITK's NIfTI and BMP readers return a truncated file as if it were whole, and a header may claim any
size; the checks here compare what a header claims with what the file holds.
"""

from __future__ import annotations

import gzip
import re
import struct
import zlib
from dataclasses import dataclass
from math import prod
from pathlib import Path

import numpy as np

from fedssl.errors import DataError

__all__ = [
    "FORMATS",
    "FileFormat",
    "check_bytes",
    "check_claimed_size",
    "detached_files",
    "format_of",
    "not_finite",
    "stem_of",
    "supported_suffixes",
]


@dataclass(frozen=True, slots=True)
class FileFormat:
    """One file format.

    Args:
        name: as shown to users.
        image_io: ITK's reader, forced so that a wrong suffix is an error and not a guess.
        magic: what such a file may start with.
        picture: a 2D picture format; what its header says of resolution is no physical spacing.
    """

    name: str
    image_io: str
    magic: tuple[bytes, ...] = ()
    picture: bool = False


_NIFTI = FileFormat("NIfTI", "NiftiImageIO")
_NIFTI_GZ = FileFormat("gzipped NIfTI", "NiftiImageIO", (b"\x1f\x8b",))
_META = FileFormat("MetaImage", "MetaImageIO")
_NRRD = FileFormat("NRRD", "NrrdImageIO", (b"NRRD",))
_PNG = FileFormat("PNG", "PNGImageIO", (b"\x89PNG\r\n\x1a\n",), picture=True)
_JPEG = FileFormat("JPEG", "JPEGImageIO", (b"\xff\xd8\xff",), picture=True)
_TIFF_MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_TIFF = FileFormat("TIFF", "TIFFImageIO", _TIFF_MAGIC, picture=True)
_BMP = FileFormat("BMP", "BMPImageIO", (b"BM",), picture=True)

FORMATS = {
    ".nii.gz": _NIFTI_GZ,
    ".nii": _NIFTI,
    ".mha": _META,
    ".mhd": _META,
    ".nrrd": _NRRD,
    ".png": _PNG,
    ".jpg": _JPEG,
    ".jpeg": _JPEG,
    ".tif": _TIFF,
    ".tiff": _TIFF,
    ".bmp": _BMP,
}
"""Formats by suffix, in lower case; suffixes of files are compared without case."""

_LARGEST_EXPANSION = 1100
"""Deflate cannot pack more than 1032 bytes into one; no format here does better on images."""

_CHUNK = 1 << 20


def supported_suffixes() -> str:
    """Return the suffixes for an error message."""
    return ", ".join(FORMATS)


def format_of(path: Path) -> FileFormat | None:
    """Return the format that a file's suffix stands for, or None."""
    name = path.name.lower()
    return next((f for suffix, f in FORMATS.items() if name.endswith(suffix)), None)


def stem_of(name: str) -> str:
    """Return a file name without its known suffix (`.nii.gz` counts as one)."""
    lower = name.lower()
    suffix = next((s for s in FORMATS if lower.endswith(s)), "")
    return name[: len(name) - len(suffix)] if suffix else name


def check_bytes(path: Path) -> FileFormat:
    """Refuse what is no readable file of the format that its suffix names.

    Raises:
        DataError: missing, empty, of another format, or shorter than its header claims.
    """
    file_format = format_of(path)
    if file_format is None:
        raise DataError(f"{path} has no supported suffix; supported: {supported_suffixes()}.")
    try:
        with path.open("rb") as file:
            head = file.read(64)
    except OSError as error:
        reason = error.strerror or str(error)
        raise DataError(f"{path} cannot be opened: {reason}.") from None
    if not head:
        raise DataError(f"{path} is empty (0 bytes); copy it again.")
    if file_format.magic and not head.startswith(file_format.magic):
        raise DataError(f"{path} is no {file_format.name} file{_looks_like(head)}.")
    _check_content(path, file_format, head)
    return file_format


def _check_content(path: Path, file_format: FileFormat, head: bytes) -> None:
    if file_format.image_io == "NiftiImageIO":
        _check_nifti(path, compressed=file_format is _NIFTI_GZ)
    elif file_format is _BMP:
        _check_bmp(path, head)
    elif file_format is _JPEG:
        _check_jpeg(path)
    elif file_format is _PNG and head[25:26] == b"\x04":
        raise DataError(f"{path} is a grey PNG with transparency; save it without the alpha.")


def check_claimed_size(path: Path, claimed: int) -> None:
    """Refuse a header that claims more pixel bytes than the file can hold.

    Args:
        path: the file whose header was read.
        claimed: bytes of the decoded pixels.
    """
    held = path.stat().st_size + sum(p.stat().st_size for p in detached_files(path))
    if claimed > _LARGEST_EXPANSION * held + _CHUNK:
        raise DataError(
            f"{path}: its header claims {claimed} bytes of pixels, but the file holds only {held} "
            "bytes; the header is damaged. Export the image again."
        )


def _looks_like(head: bytes) -> str:
    for file_format in (_PNG, _JPEG, _NRRD, _TIFF, _NIFTI_GZ, _BMP):
        if head.startswith(file_format.magic):
            return f"; its content looks like {file_format.name}: rename it"
    return f"; it starts with {head[:8]!r}: export it again"


def detached_files(path: Path) -> list[Path]:
    """Return the pixel files that a MetaImage or NRRD header points at."""
    if path.suffix.lower() not in {".mhd", ".mha", ".nrrd"}:
        return []
    with path.open("rb") as file:
        head = file.read(1 << 16)
    found = re.findall(rb"(?im)^(?:ElementDataFile\s*=|data ?file:)\s*(.+?)\s*$", head)
    names = [name.decode("utf-8", "replace").replace("\0", "") for name in found]
    return [p for p in (path.parent / name for name in names) if p.is_file() and p != path]


def _check_nifti(path: Path, *, compressed: bool) -> None:
    """Read the stream once: its length, its checksum, and values that the decoder would hide."""
    opener = gzip.open if compressed else open
    broken = 0
    try:
        with opener(path, "rb") as file:
            header = _nifti_header(path, file.read(544))
            file.seek(header.start)
            length, rest = header.start, header.size
            while chunk := file.read(min(_CHUNK, rest) if rest else _CHUNK):
                broken += _not_finite(chunk, header.dtype) if rest else 0
                length += len(chunk)
                rest = max(rest - len(chunk), 0)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(
            f"{path} cannot be unpacked: {error or 'the gzip stream is damaged'}. "
            "Copy the file again."
        ) from None
    if rest:
        raise DataError(
            f"{path} is cut off: its header claims {header.start + header.size} bytes, {length} "
            "are there. Copy the file again."
        )
    if broken:
        raise not_finite(path, broken)


def not_finite(path: Path, count: int) -> DataError:
    """Return the error for an image with values that are no numbers."""
    return DataError(
        f"{path} holds {count} values that are NaN, infinite or beyond float32; replace them, "
        "e.g. by the smallest valid intensity."
    )


def _not_finite(chunk: bytes, dtype: np.dtype | None) -> int:
    """Count what ITK's NIfTI reader would silently turn into 0."""
    if dtype is None:
        return 0
    values = np.frombuffer(chunk, dtype, count=len(chunk) // dtype.itemsize)
    return int(values.size - np.count_nonzero(np.isfinite(values)))


@dataclass(frozen=True, slots=True)
class _NiftiHeader:
    """Where the voxels start, how many bytes they take, and their type if it is a float."""

    start: int
    size: int
    dtype: np.dtype | None


def _nifti_header(path: Path, head: bytes) -> _NiftiHeader:
    """Read the fields that decide the file's length.

    Offsets of `dim`, `datatype`, `bitpix` and `vox_offset`: nifti1.h and nifti2.h of the NIfTI
    working group.
    """
    layouts = {348: ("8h", 40, 70, "f", 108), 540: ("8q", 16, 12, "q", 168)}
    for order in "<>":
        size = struct.unpack_from(order + "i", head)[0] if len(head) >= 4 else 0
        if size in layouts:
            break
    else:
        raise DataError(f"{path} is no NIfTI file{_looks_like(head)}.")
    if len(head) < size:
        raise DataError(f"{path} is cut off inside its header. Copy the file again.")
    dims, at, type_at, offset, offset_at = layouts[size]
    dim = struct.unpack_from(order + dims, head, at)
    datatype, bits = struct.unpack_from(order + "hh", head, type_at)
    start = struct.unpack_from(order + offset, head, offset_at)[0]
    rank = dim[0]
    if not 1 <= rank <= 7 or any(d < 1 for d in dim[1 : rank + 1]) or bits < 1:
        raise DataError(
            f"{path}: its header has the dimensions {list(dim)} with {bits} bits per voxel, which "
            "is no image. Export it again."
        )
    # voxels of a single file start at 352 at the earliest; NaN compares as False
    start = int(start) if 352 <= start < 2**40 else 352
    count = prod(int(d) for d in dim[1 : rank + 1])
    floats = {16: np.dtype(order + "f4"), 64: np.dtype(order + "f8")}
    return _NiftiHeader(start, (count * int(bits) + 7) // 8, floats.get(datatype))


def _check_bmp(path: Path, head: bytes) -> None:
    if len(head) < 34:
        raise DataError(f"{path} is cut off inside its header. Copy the file again.")
    start, _, width, height, _, bits, compression = struct.unpack_from("<IIiiHHI", head, 10)
    if compression not in (0, 3):
        raise DataError(f"{path} is a compressed BMP, which is not supported; save it as PNG.")
    needed = start + (abs(width) * bits + 31) // 32 * 4 * abs(height)
    length = path.stat().st_size
    if length < needed:
        raise DataError(
            f"{path} is cut off: its header claims {needed} bytes, {length} are there. "
            "Copy the file again."
        )


def _check_jpeg(path: Path) -> None:
    """The decoder fills what is missing with grey, so the end marker has to be there."""
    content = path.read_bytes()
    if content.rfind(b"\xff\xd9") < content.rfind(b"\xff\xda"):
        raise DataError(f"{path} is cut off: it has no end-of-image marker. Copy the file again.")
