"""`Download` and `Upload` as Flower records, and back. The only flwr import in the library.

`weights` and `knowledge` are ArrayRecords, `metrics` is a MetricRecord; `header` (run, round,
stage, site, role, counts, parts), `clock`, `options` and `info` are ConfigRecords.

An array travels as its raw little-endian bytes (nothing is pickled), and the receiver checks
name, dtype, shape and length before it makes a tensor of them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final, Literal, TypeVar

import numpy as np
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict
from torch import Tensor

from fedssl.errors import FederationError, UploadError
from fedssl.types import Arrays, Download, Role, Upload

__all__ = ["Transfer", "pack_download", "pack_upload", "unpack_download", "unpack_upload"]

Transfer = Literal["fp32", "fp16"]

FORMAT: Final = 1
RAW: Final = "fedssl.raw"
RAW_HALVED: Final = "fedssl.raw.halved"
"""Serialisation names: plain bytes, and float32 that was sent as float16."""

# fmt: off
DTYPES: Final = (
    "bool", "uint8", "uint16", "uint32", "uint64", "int8", "int16", "int32", "int64",
    "float16", "float32", "float64", "complex64", "complex128",
)
# fmt: on
"""Names shared by torch and numpy; bfloat16 is not among them."""

DOWNLOAD: Final = {
    "header": ConfigRecord,
    "weights": ArrayRecord,
    "knowledge": ArrayRecord,
    "clock": ConfigRecord,
    "options": ConfigRecord,
}
UPLOAD: Final = {
    "header": ConfigRecord,
    "weights": ArrayRecord,
    "knowledge": ArrayRecord,
    "metrics": MetricRecord,
    "info": ConfigRecord,
}

T = TypeVar("T", int, str)


def pack_download(download: Download, transfer: Transfer = "fp32") -> RecordDict:
    """Return a download as records.

    Args:
        download: what one stage needs at one site.
        transfer: `fp16` sends float32 weights as float16; `knowledge` is never narrowed.

    Raises:
        FederationError: an array has a dtype that cannot travel, or leaves the range of float16.
    """
    try:
        return RecordDict(
            {
                "header": ConfigRecord(
                    {
                        "format": FORMAT,
                        "run": download.run,
                        "round": download.round,
                        "stage": download.stage,
                        "site": download.site,
                        "step": download.step,
                        "trains": json.dumps(list(download.trains)),
                    }
                ),
                "weights": _pack_arrays(download.weights, "weights", transfer),
                "knowledge": _pack_arrays(download.knowledge, "knowledge"),
                "clock": ConfigRecord({k: float(v) for k, v in download.clock.items()}),
                "options": ConfigRecord(dict(download.options)),
            }
        )
    except _WireError as error:
        raise FederationError(
            f"Download of stage {download.stage!r} to site {download.site!r}: {error}"
        ) from None


def unpack_download(content: RecordDict) -> Download:
    """Return the download that `pack_download` packed.

    Raises:
        FederationError: a record or key is missing, unknown or malformed; the message names it.
    """
    try:
        _check_records(content, DOWNLOAD)
        header = content.config_records["header"]
        return Download(
            run=_field(header, "run", str),
            round=_field(header, "round", int),
            stage=_field(header, "stage", str),
            site=_field(header, "site", str),
            step=_field(header, "step", int),
            weights=_unpack_arrays(content.array_records["weights"], "weights"),
            knowledge=_unpack_arrays(content.array_records["knowledge"], "knowledge"),
            trains=_names(_field(header, "trains", str)),
            clock=_floats(content.config_records["clock"], "clock"),
            options=_strings(content.config_records["options"], "options"),
        )
    except _WireError as error:
        raise FederationError(f"Download cannot be read: {error}") from None


def pack_upload(upload: Upload, transfer: Transfer = "fp32") -> RecordDict:
    """Return an upload as records; see `pack_download`.

    Raises:
        UploadError: an array has a dtype that cannot travel, or leaves the range of float16.
    """
    try:
        return RecordDict(
            {
                "header": ConfigRecord(
                    {
                        "format": FORMAT,
                        "site": upload.site,
                        "role": str(upload.role),
                        "round": upload.round,
                        "stage": upload.stage,
                        "num-examples": upload.num_examples,
                        "num-labeled": upload.num_labeled,
                    }
                ),
                "weights": _pack_arrays(upload.weights, "weights", transfer),
                "knowledge": _pack_arrays(upload.knowledge, "knowledge"),
                "metrics": MetricRecord({k: float(v) for k, v in upload.metrics.items()}),
                "info": ConfigRecord(dict(upload.info)),
            }
        )
    except _WireError as error:
        raise UploadError(f"Upload of site {upload.site!r}: {error}") from None


def unpack_upload(content: RecordDict, sender: str = "") -> Upload:
    """Return the upload that `pack_upload` packed.

    Args:
        content: records of a reply.
        sender: site or node that sent it, for the error message.

    Raises:
        UploadError: a record or key is missing, unknown or malformed; the message names it.
    """
    try:
        _check_records(content, UPLOAD)
        header = content.config_records["header"]
        return Upload(
            site=_field(header, "site", str),
            role=_role(_field(header, "role", str)),
            round=_field(header, "round", int),
            stage=_field(header, "stage", str),
            num_examples=_field(header, "num-examples", int),
            num_labeled=_field(header, "num-labeled", int),
            weights=_unpack_arrays(content.array_records["weights"], "weights"),
            knowledge=_unpack_arrays(content.array_records["knowledge"], "knowledge"),
            metrics=_floats(content.metric_records["metrics"], "metrics"),
            info=_strings(content.config_records["info"], "info"),
        )
    except _WireError as error:
        raise UploadError(f"Upload of {sender or 'a site'} is refused: {error}") from None


class _WireError(ValueError):
    """What is wrong, without the direction; turned into a `FedsslError` by the public functions."""


def _check_records(content: RecordDict, expected: Mapping[str, type[Any]]) -> None:
    missing = sorted(set(expected) - set(content))
    unknown = sorted(set(content) - set(expected))
    if missing or unknown:
        raise _WireError(
            f"missing records {missing}, unknown records {unknown}; "
            "do all sites and the coordinator run the same version of fedssl?"
        )
    for name, kind in expected.items():
        if not isinstance(content[name], kind):
            given = type(content[name]).__name__
            raise _WireError(f"record {name!r} is a {given}, expected a {kind.__name__}")
    version = _field(content.config_records["header"], "format", int)
    if version != FORMAT:
        raise _WireError(f"message format {version}, this side speaks {FORMAT}; update fedssl")


def _field(record: ConfigRecord, key: str, kind: type[T]) -> T:
    if key not in record:
        raise _WireError(f"key {key!r} is missing in record 'header'")
    value = record[key]
    if isinstance(value, bool) or not isinstance(value, kind):
        raise _WireError(f"key {key!r} in record 'header' is {value!r}, not a {kind.__name__}")
    return value


def _role(text: str) -> Role:
    try:
        return Role(text)
    except ValueError:
        raise _WireError(f"role {text!r} is none of {', '.join(Role)}") from None


def _names(text: str) -> tuple[str, ...]:
    try:
        names = json.loads(text)
    except json.JSONDecodeError:
        names = None
    if not isinstance(names, list) or not all(isinstance(n, str) for n in names):
        raise _WireError(f"key 'trains' in record 'header' is no list of names: {text!r}")
    return tuple(names)


def _floats(record: ConfigRecord | MetricRecord, name: str) -> dict[str, float]:
    floats: dict[str, float] = {}
    for key, value in record.items():
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise _WireError(f"key {key!r} in record {name!r} is not one number")
        floats[key] = float(value)
    return floats


def _strings(record: ConfigRecord, name: str) -> dict[str, str]:
    strings: dict[str, str] = {}
    for key, value in record.items():
        if not isinstance(value, str):
            raise _WireError(f"key {key!r} in record {name!r} is not a string")
        strings[key] = value
    return strings


def _pack_arrays(arrays: Arrays, name: str, transfer: Transfer = "fp32") -> ArrayRecord:
    record = ArrayRecord()
    for key, tensor in arrays.items():
        halve = transfer == "fp16" and tensor.dtype == torch.float32
        record[key] = _pack(_halved(tensor, name, key) if halve else tensor, name, key, halve)
    return record


def _halved(tensor: Tensor, name: str, key: str) -> Tensor:
    half = tensor.to(torch.float16)
    if not torch.equal(torch.isfinite(half), torch.isfinite(tensor)):
        raise _WireError(
            f"{name}[{key!r}] has a magnitude of {tensor.abs().max().item():.3g}, beyond float16 "
            "(65504); set transfer = 'fp32'"
        )
    return half


def _pack(tensor: Tensor, name: str, key: str, halved: bool) -> Array:
    dtype = str(tensor.dtype).removeprefix("torch.")
    if dtype not in DTYPES:
        raise _WireError(
            f"{name}[{key!r}] is {dtype}, which cannot travel; convert it to float32 "
            f"(dtypes that can: {', '.join(DTYPES)})"
        )
    values = tensor.detach().cpu().numpy()
    data = values.astype(values.dtype.newbyteorder("<"), copy=False).tobytes()
    return Array(dtype, tuple(tensor.shape), RAW_HALVED if halved else RAW, data)


def _unpack_arrays(record: ArrayRecord, name: str) -> Arrays:
    return {key: _unpack(array, f"{name}[{key!r}]") for key, array in record.items()}


def _unpack(array: Array, where: str) -> Tensor:
    if array.stype not in {RAW, RAW_HALVED}:
        raise _WireError(f"{where} is serialised as {array.stype!r}, expected {RAW!r}")
    if array.dtype not in DTYPES or (array.stype == RAW_HALVED and array.dtype != "float16"):
        raise _WireError(f"{where} has dtype {array.dtype!r}, which cannot travel")
    dtype = np.dtype(array.dtype).newbyteorder("<")
    if any(n < 0 for n in array.shape):
        raise _WireError(f"{where} has shape {array.shape}")
    expected = dtype.itemsize * int(np.prod(array.shape, dtype=object))
    if len(array.data) != expected:
        raise _WireError(
            f"{where} holds {len(array.data)} bytes; {array.dtype} of shape {array.shape} "
            f"takes {expected}"
        )
    # A bytearray is writable, which a tensor that shares the buffer has to be.
    values: np.ndarray = np.ndarray(array.shape, dtype, bytearray(array.data))
    if array.dtype == "bool":
        values = np.asarray(values.view(np.uint8) != 0)
    tensor = torch.from_numpy(values.astype(dtype.newbyteorder("="), copy=False))
    return tensor.float() if array.stype == RAW_HALVED else tensor
