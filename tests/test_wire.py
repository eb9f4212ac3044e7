"""Flower records: every `Download` and `Upload` survives the wire, everything else is refused."""

from __future__ import annotations

import math
from dataclasses import fields, replace

import pytest
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects
from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fedssl.errors import FederationError, UploadError
from fedssl.types import Download, Role, Upload
from fedssl.wire import pack_download, pack_upload, unpack_download, unpack_upload

DTYPES = [
    torch.bool,
    torch.uint8,
    torch.uint16,
    torch.uint32,
    torch.uint64,
    torch.int8,
    torch.int16,
    torch.int32,
    torch.int64,
    torch.float16,
    torch.float32,
    torch.float64,
    torch.complex64,
    torch.complex128,
]


def travel(content: RecordDict) -> RecordDict:
    """Serialise and restore records exactly as Flower does between two machines."""
    contents = {key: value.deflate() for key, value in get_all_nested_objects(content).items()}
    restored = inflate_object_from_contents(content.object_id, contents)
    assert isinstance(restored, RecordDict)
    return restored


def raw(tensor: torch.Tensor) -> bytes:
    return tensor.numpy().tobytes()


def same_arrays(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> bool:
    return left.keys() == right.keys() and all(
        left[k].dtype == right[k].dtype
        and left[k].shape == right[k].shape
        and raw(left[k]) == raw(right[k])
        for k in left
    )


def same_numbers(left: dict[str, float], right: dict[str, float]) -> bool:
    """Integers travel as floats, and NaN is the same as NaN here."""
    return left.keys() == right.keys() and all(
        left[k] == right[k] or (math.isnan(left[k]) and math.isnan(right[k])) for k in left
    )


def same(left: object, right: object) -> bool:
    assert type(left) is type(right)
    for item in fields(left):  # type: ignore[arg-type]  # a dataclass
        a, b = getattr(left, item.name), getattr(right, item.name)
        if item.name in {"weights", "knowledge"}:
            if not same_arrays(a, b):
                return False
        elif item.name in {"clock", "metrics"}:
            if not same_numbers(a, b):
                return False
        elif a != b:
            return False
    return True


@st.composite
def tensors(draw: st.DrawFn) -> torch.Tensor:
    shape = draw(st.lists(st.integers(0, 4), max_size=4))
    dtype = draw(st.sampled_from(DTYPES))
    size = math.prod(shape) * dtype.itemsize
    data = bytearray(draw(st.binary(min_size=size, max_size=size)))
    if dtype == torch.bool:
        data = bytearray(b & 1 for b in data)
    if not size:
        return torch.zeros(shape, dtype=dtype)
    return torch.frombuffer(data, dtype=torch.uint8).view(dtype).reshape(shape)


arrays = st.dictionaries(st.text(min_size=1, max_size=8), tensors(), max_size=4)
numbers = st.dictionaries(st.text(max_size=6), st.floats() | st.integers(-9, 9), max_size=4)
strings = st.dictionaries(st.text(max_size=6), st.text(max_size=9), max_size=4)
downloads = st.builds(
    Download,
    run=st.text(max_size=8),
    round=st.integers(0, 2**40),
    stage=st.text(max_size=8),
    site=st.text(max_size=8),
    step=st.integers(0, 2**40),
    weights=arrays,
    knowledge=arrays,
    trains=st.lists(st.text(max_size=5), max_size=3).map(tuple),
    clock=numbers,
    options=strings,
)
uploads = st.builds(
    Upload,
    site=st.text(max_size=8),
    role=st.sampled_from(Role),
    round=st.integers(0, 2**40),
    stage=st.text(max_size=8),
    num_examples=st.integers(0, 2**40),
    num_labeled=st.integers(0, 2**40),
    weights=arrays,
    knowledge=arrays,
    metrics=numbers,
    info=strings,
)


@settings(max_examples=60, deadline=None)
@given(downloads)
@example(Download("", 0, "", "", clock={"count": 0, "loss": math.nan}))
def test_a_download_survives_the_wire_bit_by_bit(download: Download) -> None:
    assert same(unpack_download(travel(pack_download(download))), download)


@settings(max_examples=60, deadline=None)
@given(uploads)
def test_an_upload_survives_the_wire_bit_by_bit(upload: Upload) -> None:
    assert same(unpack_upload(travel(pack_upload(upload))), upload)


def test_no_field_of_the_two_classes_is_left_behind() -> None:
    # A field added to a class must be added to the wire: two values that differ in it must differ.
    changed = {
        "weights": {"w": torch.ones(1)},
        "knowledge": {"k": torch.ones(1)},
        "trains": ("shared",),
        "clock": {"t": 1.0},
        "options": {"split": "test"},
        "metrics": {"loss": 1.0},
        "info": {"a": "b"},
        "role": Role.MIXED,
    }
    for base, pack, unpack in (
        (Download("r", 0, "s", "a"), pack_download, unpack_download),
        (Upload("a", Role.LABELED, 0, "s"), pack_upload, unpack_upload),
    ):
        for item in fields(base):
            old = getattr(base, item.name)
            new = changed.get(item.name, 7 if isinstance(old, int) else "other")
            other = replace(base, **{item.name: new})
            assert not same(unpack(pack(other)), base), item.name


def test_values_are_little_endian_on_the_wire() -> None:
    content = pack_download(Download("r", 0, "s", "a", weights={"w": torch.tensor([1.0])}))
    assert content.array_records["weights"]["w"].data == b"\x00\x00\x80\x3f"


def test_a_strided_tensor_with_gradient_travels_as_its_values() -> None:
    weight = torch.arange(6.0, requires_grad=True).reshape(2, 3).T
    back = unpack_download(pack_download(Download("r", 0, "s", "a", weights={"w": weight})))
    assert torch.equal(back.weights["w"], torch.tensor([[0.0, 3.0], [1.0, 4.0], [2.0, 5.0]]))
    assert not back.weights["w"].requires_grad


def test_received_tensors_can_be_written_to() -> None:
    back = unpack_download(pack_download(Download("r", 0, "s", "a", weights={"w": torch.ones(2)})))
    back.weights["w"].mul_(2)
    assert back.weights["w"].tolist() == [2.0, 2.0]


def test_bfloat16_is_refused_with_the_name_of_the_array() -> None:
    weights = {"head.weight": torch.ones(1, dtype=torch.bfloat16)}
    with pytest.raises(UploadError, match=r"'a'.*head\.weight.*bfloat16.*float32"):
        pack_upload(Upload("a", Role.LABELED, 0, "train", weights=weights))
    with pytest.raises(FederationError, match=r"head\.weight.*bfloat16"):
        pack_download(Download("r", 0, "train", "a", weights=weights))


def test_fp16_transfer_rounds_float32_weights_and_nothing_else() -> None:
    weights = {
        "single": torch.tensor([1.0, 1.0 + 2**-12, -0.1]),
        "double": torch.tensor([0.1], dtype=torch.float64),
        "half": torch.tensor([0.5], dtype=torch.float16),
        "count": torch.tensor(3),
    }
    upload = Upload(
        "a", Role.LABELED, 0, "s", weights=weights, knowledge={"k": torch.tensor([0.1])}
    )
    content = travel(pack_upload(upload, transfer="fp16"))
    assert len(content.array_records["weights"]["single"].data) == 6
    back = unpack_upload(content)
    # 1 + 2^-12 lies below half a step (2^-11) of float16 at 1; -0.1 becomes -1638 / 2^14.
    assert back.weights["single"].tolist() == [1.0, 1.0, -1638 / 2**14]
    assert back.weights["single"].dtype == torch.float32
    assert {k: v.dtype for k, v in back.weights.items()} == {k: v.dtype for k, v in weights.items()}
    assert torch.equal(back.weights["double"], weights["double"])
    assert torch.equal(back.knowledge["k"], upload.knowledge["k"])


def test_fp16_transfer_refuses_weights_beyond_its_range() -> None:
    upload = Upload("a", Role.LABELED, 0, "s", weights={"w": torch.tensor([1.0, -7e4])})
    with pytest.raises(UploadError, match=r"'w'.*7e\+04.*transfer = 'fp32'"):
        pack_upload(upload, transfer="fp16")


def test_fp16_transfer_lets_a_broken_value_through_for_the_receiver_to_refuse() -> None:
    upload = Upload("a", Role.LABELED, 0, "s", weights={"w": torch.tensor([math.nan])})
    assert unpack_upload(pack_upload(upload, transfer="fp16")).weights["w"].isnan().all()


def broken(**changes: object) -> RecordDict:
    """Return a good upload's records with some replaced, or removed where None."""
    content = pack_upload(Upload("a", Role.LABELED, 0, "s", weights={"w": torch.ones(2)}))
    for name, record in changes.items():
        if record is None:
            del content[name]
        else:
            content[name] = record  # type: ignore[assignment]  # broken on purpose
    return content


def header(**changes: object) -> ConfigRecord:
    record = broken().config_records["header"]
    for key, value in changes.items():
        if value is None:
            del record[key]
        else:
            record[key] = value  # type: ignore[assignment]  # broken on purpose
    return record


def weight(dtype: str, shape: tuple[int, ...], stype: str, data: bytes) -> ArrayRecord:
    record = ArrayRecord()
    record["w"] = Array(dtype, shape, stype, data)
    return record


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (broken(weights=None), r"missing records \['weights'\]"),
        (broken(extra=ConfigRecord()), r"unknown records \['extra'\]"),
        (broken(metrics=ConfigRecord()), "'metrics' is a ConfigRecord, expected a MetricRecord"),
        (broken(header=header(format=2)), "message format 2, this side speaks 1"),
        (broken(header=header(round=None)), "'round' is missing"),
        (broken(header=header(round="3")), "'round'.*not a int"),
        (broken(header=header(round=True)), "'round'.*not a int"),
        (broken(header=header(role="boss")), "'boss' is none of labeled, unlabeled, mixed"),
        (broken(info=ConfigRecord({"a": 1})), "'a' in record 'info' is not a string"),
        (broken(metrics=MetricRecord({"a": [1.0]})), "'a' in record 'metrics' is not one number"),
        (broken(weights=weight("float32", (2,), "numpy.ndarray", b"\0" * 8)), "'numpy.ndarray'"),
        (broken(weights=weight("object", (1,), "fedssl.raw", b"\0" * 8)), "dtype 'object'"),
        (broken(weights=weight("int8", (2,), "fedssl.raw.halved", b"\0\0")), "dtype 'int8'"),
        (broken(weights=weight("float32", (3,), "fedssl.raw", b"\0" * 8)), r"8 bytes.*takes 12"),
        (broken(weights=weight("float32", (-1, -2), "fedssl.raw", b"\0" * 8)), r"shape \(-1, -2\)"),
        (broken(weights=weight("int8", (2**40, 2**40), "fedssl.raw", b"")), "takes 12089"),
    ],
)
def test_a_malformed_upload_is_refused_by_name(content: RecordDict, reason: str) -> None:
    with pytest.raises(UploadError, match=rf"Upload of site 'x'.*{reason}"):
        unpack_upload(content, "site 'x'")


def test_a_malformed_download_is_a_federation_error() -> None:
    content = pack_download(Download("r", 0, "s", "a"))
    content.config_records["header"]["trains"] = "shared"
    with pytest.raises(FederationError, match=r"'trains'.*no list of names"):
        unpack_download(content)


def test_a_byte_that_is_neither_0_nor_1_becomes_true_in_a_bool_array() -> None:
    content = broken(weights=weight("bool", (3,), "fedssl.raw", b"\x00\x01\x02"))
    back = unpack_upload(content).weights["w"]
    assert back.view(torch.uint8).tolist() == [0, 1, 1]
