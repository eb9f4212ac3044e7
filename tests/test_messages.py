"""What an eavesdropper or a curious coordinator sees: every message of a run, as it travels."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813 -- its customary name
from flwr.app import ArrayRecord, ConfigRecord, MetricRecord, RecordDict
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects
from tiny_federations import Watched, open_sites, run_through, tiny_run

from fedssl.config import Scalar
from fedssl.methods import method_of
from fedssl.methods.payload import ArraySpec, Payload
from fedssl.site import Site
from fedssl.types import Download, Upload
from fedssl.wire import pack_download, pack_upload, unpack_download, unpack_upload

HEIGHT, WIDTH = 44, 36
PATIENT = "doe_jane"
ROLES = {"north": "labeled", "south": "mixed", "west": "unlabeled"}
TASK = """\
[task]
name = "eyes"
classes = ["background", "disc"]
"""
METHODS: dict[str, dict[str, Scalar]] = {
    "denoise": {
        "denoise.warmup-rounds": 1,
        "denoise.passes": 2,
        "denoise.prototypes": "mix",
        "denoise.source": "ensemble",
    },
    "mutual": {"mutual.warmup-rounds": 1},
    "reference": {"reference.warmup-rounds": 1},
    "quality": {
        "quality.predictor-rounds": 1,
        "quality.predictor-steps": 1,
        "quality.width": 4,
        "quality.gate-correlation": -1.0,
        "quality.gate-blackout": 1.01,
    },
}
"""The four seed methods, with all the extras that they can send."""

HEADER_DOWN = {"format", "run", "round", "stage", "site", "step", "trains"}
HEADER_UP = {"format", "site", "role", "round", "stage", "num-examples", "num-labeled"}
RECORDS_DOWN = {"header", "weights", "knowledge", "clock", "options"}
RECORDS_UP = {"header", "weights", "knowledge", "metrics", "info"}
INFO = {"fingerprint", "task", "plan", "versions", "distance_unit"}


@dataclass
class Tapped(Watched):
    """Keeps every message in the form in which it is on the wire."""

    down: list[RecordDict] = field(default_factory=list)
    up: list[RecordDict] = field(default_factory=list)

    def describe(self, run: str) -> list[Upload]:
        if self.described:
            return []
        self.described = True
        return [self._answer(Download(run, 0, "describe", name)) for name in self.sites]

    def _answer(self, download: Download) -> Upload:
        self.down.append(pack_download(download))
        upload = self.sites[download.site].answer(unpack_download(self.down[-1]))
        self.up.append(pack_upload(upload))
        self.uploads.append(upload)
        return unpack_upload(self.up[-1])


@dataclass
class Tap:
    """The messages of a run, and what is known at the sites."""

    method: str
    down: list[RecordDict]
    up: list[RecordDict]
    sites: Mapping[str, Site]
    payload: Payload
    shapes: dict[str, tuple[int, ...]]

    def messages(self) -> Iterator[tuple[RecordDict, bool]]:
        """Yield each message, and whether it goes up."""
        yield from ((message, False) for message in self.down)
        yield from ((message, True) for message in self.up)

    def arrays(self) -> Iterator[tuple[str, str, str, Any, bool]]:
        """Yield (stage, record, name, array, whether it goes up)."""
        for message, up in self.messages():
            stage = str(message.config_records["header"]["stage"])
            for record, arrays in message.array_records.items():
                for name, array in arrays.items():
                    yield stage, record, name, array, up


@pytest.fixture(scope="module", params=METHODS)
def tap(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Tap:
    """A run over pictures whose files are named after a patient."""
    folder = tmp_path_factory.mktemp("hospital")
    text = TASK
    for seed, (name, role) in enumerate(ROLES.items()):
        write_pictures(folder / name, seed, masks=role != "unlabeled")
        text += f'[[site]]\nname = "{name}"\nrole = "{role}"\npath = "{name}"\n'
        text += "labeled = 3\n" if role == "mixed" else ""
    (folder / "federation.toml").write_text(text)
    keys: dict[str, Scalar] = {"method": request.param, "rounds": 4, "local-steps": 1}
    keys |= {"tracking": "", "evaluate.every": 2, **METHODS[request.param]}
    run = tiny_run(folder / "federation.toml", folder / "cache", keys)
    exchange = Tapped(open_sites(run, folder / "run"))
    run_through(exchange, run, folder / "run")
    task = method_of(run).task(exchange.sites["north"].task)
    model = method_of(run).build_model(run, task)
    state = dict(model.state_dict())
    return Tap(
        request.param,
        exchange.down,
        exchange.up,
        exchange.sites,
        method_of(run).payload(run, task, state),
        {name: tuple(value.shape) for name, value in state.items()},
    )


def write_pictures(folder: Path, seed: int, *, masks: bool) -> None:
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    for case in range(7):
        name = f"{PATIENT}_{seed}{case}.png"
        disc = np.hypot(rows - 20, columns - 14 - case) < 8
        write(folder / "images" / name, rng.integers(0, 60, disc.shape) + 120 * disc)
        if masks:
            write(folder / "labels" / name, disc)


def write(path: Path, array: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    sitk.WriteImage(sitk.GetImageFromArray(array.astype(np.uint8)), str(path))


def test_all_stages_of_the_method_are_among_the_messages(tap: Tap):
    stages = {str(m.config_records["header"]["stage"]) for m, _ in tap.messages()}
    assert {"describe", "evaluate", "train"} <= stages
    extras = {stage for stage, record, *_ in tap.arrays() if record == "knowledge"}
    wanted = {"denoise": {"prototypes", "train"}, "reference": {"train"}, "quality": {"gate"}}
    assert wanted.get(tap.method, set()) <= extras | ({"gate"} if "gate" in stages else set())
    assert len(tap.up) == len(tap.down) >= 3 * 5


def test_a_message_has_the_records_and_header_that_are_declared_and_no_more(tap: Tap):
    for message, up in tap.messages():
        assert set(message) == (RECORDS_UP if up else RECORDS_DOWN)
        header = message.config_records["header"]
        assert set(header) == (HEADER_UP if up else HEADER_DOWN)
        kinds = {name: type(record) for name, record in message.items()}
        assert set(kinds.values()) <= {ArrayRecord, ConfigRecord, MetricRecord}
        for name in ("round", "step", "num-examples", "num-labeled"):
            assert isinstance(header.get(name, 0), int)
        if up:
            described = header["stage"] == "describe"
            assert set(message.config_records["info"]) == (INFO if described else set())


def test_scalars_are_single_numbers_whose_names_hold_no_case(tap: Tap):
    classes = "|".join(tap.sites["north"].task.foreground)
    pattern = re.compile(rf"[a-z][a-z0-9_-]*(/[a-z0-9_-]+)?(/({classes})(/(sum|count))?)?")
    for message, up in tap.messages():
        numbers = message.metric_records["metrics"] if up else message.config_records["clock"]
        assert all(isinstance(value, int | float) for value in numbers.values())
        assert [name for name in numbers if not pattern.fullmatch(name)] == []
        assert len(numbers) <= 40


def test_weights_are_those_of_the_network_by_name_and_shape(tap: Tap):
    for stage, record, name, array, _ in tap.arrays():
        if record == "weights":
            assert tuple(array.shape) == tap.shapes[name], (stage, name)


def test_extras_have_the_names_and_sizes_that_the_method_declares(tap: Tap):
    from fnmatch import fnmatchcase

    for stage, record, name, array, up in tap.arrays():
        if record != "knowledge":
            continue
        declared = (tap.payload.up if up else tap.payload.down)[stage]
        fits = [spec for pattern, spec in declared.items() if fnmatchcase(name, pattern)]
        assert any(same(spec, array) for spec in fits), (stage, name, array.shape)


def same(spec: ArraySpec, array: Any) -> bool:
    shape = tuple(array.shape)
    return str(spec.dtype).removeprefix("torch.") == array.dtype and (
        len(shape) == len(spec.shape)
        and all(w is None or w == g for w, g in zip(spec.shape, shape, strict=True))
    )


def test_no_array_has_the_dimensions_of_an_image_or_of_its_features(tap: Tap):
    grids = {(HEIGHT // r, WIDTH // r) for r in (1, 2, 4)}
    sizes = {h * w for h, w in grids}
    for stage, record, name, array, up in tap.arrays():
        shape, where = tuple(array.shape), (stage, record, name, up)
        assert shape[-2:] not in grids, where
        assert shape[-2:][::-1] not in grids, where
        assert not sizes & set(shape), where
        assert len(array.data) == np.dtype(array.dtype).itemsize * int(np.prod(shape)), where


def test_no_byte_of_a_message_spells_a_name_of_a_case_a_file_or_a_path(tap: Tap):
    secrets = {PATIENT, ".png", ".nii", "images/", "labels/", "/tmp", str(Path.home())}
    for site in tap.sites.values():
        secrets |= {str(site.state), str(site.prepared.folder), site.prepared.folder.name}
        secrets |= {c.name for c in site.prepared.cases} | {c.subject for c in site.prepared.cases}
    words = {word.encode() for word in secrets if len(word) > 3}
    assert PATIENT.encode() in words
    for message, up in tap.messages():
        content = b"".join(o.deflate() for o in get_all_nested_objects(message).values())
        assert content
        found = [word for word in words if word in content]
        assert found == [], (up, dict(message.config_records["header"]))
