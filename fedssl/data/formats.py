"""File formats that can be read, and what can be checked before a decoder sees a file.

ITK's NIfTI and BMP readers return a truncated file as if it were whole, and a header may claim any
size; the checks here compare what a header claims with what the file holds.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from fedssl.data.bmp import is_bitmap
from fedssl.data.jsrt_raw import check_jsrt
from fedssl.data.metaimage import check_metaimage
from fedssl.data.nifti import check_nifti
from fedssl.data.pictures import check_bmp, check_jpeg, check_png, check_tiff
from fedssl.errors import DataError

__all__ = [
    "FORMATS",
    "FileFormat",
    "check_bytes",
    "check_claimed_size",
    "detached_files",
    "format_of",
    "stem_of",
    "supported_suffixes",
]


@dataclass(frozen=True, slots=True)
class FileFormat:
    """One file format.

    Args:
        name: as shown to users.
        image_io: ITK's reader, forced so that a wrong suffix is an error and not a guess; empty
            where `fedssl.data.readers` has one of its own.
        magic: what such a file may start with.
        picture: a 2D picture format; what its header says of resolution is no physical spacing.
        keys: which array of a file is meant: `none`, it holds one; `optional`; `named`, it is
            called `image` or `label` unless a key is given.
        writable: whether a mask can be written in it.
    """

    name: str
    image_io: str = ""
    magic: tuple[bytes, ...] = ()
    picture: bool = False
    keys: str = "none"
    writable: bool = True


_NIFTI = FileFormat("NIfTI", "NiftiImageIO")
_NIFTI_GZ = FileFormat("gzipped NIfTI", "NiftiImageIO", (b"\x1f\x8b",))
_META = FileFormat("MetaImage", "MetaImageIO")
_NRRD = FileFormat("NRRD", "NrrdImageIO", (b"NRRD",))
_PNG = FileFormat("PNG", "PNGImageIO", (b"\x89PNG\r\n\x1a\n",), picture=True)
_JPEG = FileFormat("JPEG", "JPEGImageIO", (b"\xff\xd8\xff",), picture=True)
_TIFF_MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_TIFF = FileFormat("TIFF", "TIFFImageIO", _TIFF_MAGIC, picture=True)
_BMP = FileFormat("BMP", "BMPImageIO", (b"BM",), picture=True)
_BITMAP = FileFormat("one-bit BMP", picture=True)
_GIF = FileFormat("GIF", magic=(b"GIF87a", b"GIF89a"), picture=True, writable=False)
_JSRT = FileFormat("JSRT image", picture=True, writable=False)
_HDF5 = FileFormat("HDF5", magic=(b"\x89HDF\r\n\x1a\n",), keys="named", writable=False)
_NPY = FileFormat("NumPy array", magic=(b"\x93NUMPY",), keys="optional", writable=False)
_MATLAB = FileFormat("MATLAB", keys="named", writable=False)
_DICOM = FileFormat("DICOM", writable=False)

FORMATS = {
    ".nii.gz": _NIFTI_GZ,
    ".nii": _NIFTI,
    ".mha": _META,
    ".mhd": _META,
    ".nrrd": _NRRD,
    ".nhdr": _NRRD,
    ".png": _PNG,
    ".jpg": _JPEG,
    ".jpeg": _JPEG,
    ".tif": _TIFF,
    ".tiff": _TIFF,
    ".bmp": _BMP,
    ".gif": _GIF,
    ".dcm": _DICOM,
    ".h5": _HDF5,
    ".hdf5": _HDF5,
    ".npy": _NPY,
    ".mat": _MATLAB,
    ".img": _JSRT,
}
"""Formats by suffix, in lower case; suffixes of files are compared without case."""

_LARGEST_EXPANSION = 1100
"""Deflate cannot pack more than 1032 bytes into one; no format here does better on images."""

_CHUNK = 1 << 20
_HEAD = 132


def supported_suffixes() -> str:
    """Return the suffixes for an error message."""
    return ", ".join(FORMATS)


def format_of(path: Path) -> FileFormat | None:
    """Return the format that a file's suffix stands for, or None; a folder is one DICOM series."""
    if path.is_dir():
        return _DICOM
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
    if path.is_dir():
        return _DICOM  # its files are looked at by their reader
    if file_format is None:
        raise DataError(f"{path} has no supported suffix; supported: {supported_suffixes()}.")
    try:
        str(path).encode()
    except UnicodeEncodeError:
        raise DataError(f"{str(path)!a} has a name that is not UTF-8; rename it.") from None
    head = _head(path)
    if file_format.magic and not head.startswith(file_format.magic):
        raise DataError(f"{path} is no {file_format.name} file{_looks_like(head)}.")
    if file_format is _DICOM and head[128:132] != b"DICM":
        raise DataError(f"{path} is no DICOM file{_looks_like(head)}.")
    _check_content(path, file_format)
    return _BITMAP if file_format is _BMP and is_bitmap(path) else file_format


def _head(path: Path) -> bytes:
    try:
        if path.exists() and not path.is_file():  # a pipe would be waited for
            raise DataError(f"{path} is a pipe or a device. Put a file of an image there.")
        with path.open("rb") as file:
            head = file.read(_HEAD)
    except OSError as error:
        reason = error.strerror or str(error)
        raise DataError(f"{path} cannot be opened: {reason}.") from None
    if not head:
        raise DataError(f"{path} is empty (0 bytes); copy it again.")
    return head


def _check_content(path: Path, file_format: FileFormat) -> None:
    if file_format.image_io == "NiftiImageIO":
        check_nifti(path, compressed=file_format is _NIFTI_GZ)
    elif file_format is _BMP:
        check_bmp(path)
    elif file_format is _JPEG:
        check_jpeg(path)
    elif file_format is _PNG:
        check_png(path)
    elif file_format is _TIFF:
        check_tiff(path)
    elif file_format is _META:
        check_metaimage(path)
    elif file_format is _JSRT:
        check_jsrt(path)
    detached_files(path)


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
    for file_format in (_PNG, _JPEG, _NRRD, _TIFF, _NIFTI_GZ, _BMP, _GIF, _HDF5, _NPY):
        if head.startswith(file_format.magic):
            return f"; its content looks like {file_format.name}: rename it"
    return f"; it starts with {head[:8]!r}: export it again"


def detached_files(path: Path) -> list[Path]:
    """Return the pixel file that a MetaImage or NRRD header points at, if it is another file.

    Raises:
        DataError: it points at several files or at none.
    """
    if not path.name.lower().endswith((".mhd", ".mha", ".nrrd", ".nhdr")):
        return []
    with path.open("rb") as file:
        head = file.read(1 << 16).split(b"\n\n")[0]
    found = re.findall(rb"(?im)^(?:ElementDataFile[ \t]*=|data ?file:)[ \t]*(.+?)[ \t\r]*$", head)
    name = found[0].decode("utf-8", "replace").replace("\0", "") if found else "LOCAL"
    if name.upper() == "LOCAL":
        return []
    if name.upper().startswith("LIST") or "%" in name:
        raise DataError(
            f"{path} keeps its pixels in several files, which is not supported; convert it to one "
            "file, e.g. .nii.gz."
        )
    data = path.parent / name
    try:
        missing = not data.is_file() or data.samefile(path)
    except OSError:  # a damaged header can hold a name that no file may have
        missing = True
    if missing:
        raise DataError(
            f"{path} keeps its pixels in {str(data)[:300]}, which is missing. Copy it as well."
        )
    return [data]
