"""What a method may see, what it may send, and what it may leave on a site's disk."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from tiny_federations import ROLES, SIZE, Configure, Finished, Watched, open_sites, run_through

from fedssl.data.cache import PreparedSite
from fedssl.types import Role, Upload
from fedssl.wire import pack_upload

AT_A_SITE = [
    r"run",
    r"latest",
    r"cases\.jsonl",
    r"overlays/[^/]+\.(png|jsonl)",
    r"memory/[a-z][a-z0-9_.-]*\.r\d{6}\.s\d{8}\.safetensors",
    r"pseudo/[0-9a-f]{20}\.[a-z][a-z0-9_]*\.npy",
]
IN_THE_FOLDER = [
    r"config\.toml",
    r"results\.json",
    r"rounds\.jsonl",
    r"model\.safetensors",
    r"checkpoint/latest\.safetensors",
    r"report\.html",
    r"splits\.json",
    r"(tensorboard/)?events\.out\.tfevents\..*",
]


class OpenedMask(BaseException):
    """A mask was opened that training may not see; nothing may catch this."""


def test_training_opens_masks_of_labeled_cases_only(
    configure: Configure, whole: Finished, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    run, folder = configure(), tmp_path / "run"
    exchange = Watched(open_sites(run, folder))
    usable = {name: set(s.data.labeled) for name, s in exchange.sites.items()}
    allowed = {id(s.prepared): usable[name] for name, s in exchange.sites.items()}
    opened: set[int] = set()
    original = PreparedSite.label

    def guarded(self: PreparedSite, index: int) -> np.ndarray:
        if exchange.training:
            opened.add(id(self))
            if index not in allowed[id(self)]:
                raise OpenedMask
        return original(self, index)

    monkeypatch.setattr(PreparedSite, "label", guarded)
    assert run_through(exchange, run, folder).digest == whole.digest
    by_role = {ROLES[name]: id(site.prepared) for name, site in exchange.sites.items()}
    assert opened == {by_role["labeled"], by_role["mixed"]}
    assert allowed[by_role["unlabeled"]] == set()
    assert 0 < len(exchange.sites["south"].data.labeled) < len(exchange.sites["south"].split.train)
    assert all(usable[name] <= set(s.split.train) for name, s in exchange.sites.items())


def test_masks_of_unlabeled_sites_do_not_change_the_weights(
    configure: Configure, whole: Finished, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    run, folder = configure(), tmp_path / "run"
    sites = open_sites(run, folder)
    hidden, original = sites["west"].prepared, PreparedSite.label

    def replaced(self: PreparedSite, index: int) -> np.ndarray:
        label = original(self, index)
        return np.zeros_like(label) if self is hidden else label

    monkeypatch.setattr(PreparedSite, "label", replaced)
    assert run_through(Watched(sites), run, folder).digest == whole.digest


def test_uploads_hold_weights_counts_and_scalars_only(whole: Finished):
    for upload in whole.exchange.uploads:
        assert upload.info == {}
        assert all(type(value) in (float, int) for value in upload.metrics.values())
        for name, array in {**upload.weights, **upload.knowledge}.items():
            assert not looks_like_pictures(array.shape), (upload.site, name)


def looks_like_pictures(shape: tuple[int, ...]) -> bool:
    """Whether an array could hold maps over the pixels of an image, at full size or a quarter."""
    grids = {(SIZE // r, SIZE // r) for r in (1, 2, 4)}
    return (len(shape) > 2 and tuple(shape[-2:]) in grids) or SIZE * SIZE in shape


def test_an_unlabeled_site_uploads_what_the_method_declares_and_nothing_else(whole: Finished):
    from fedssl.methods import method_of

    method, site = method_of(whole.run), whole.exchange.sites["west"]
    declared = method.payload(whole.run, site.task, weights_of(whole)).up
    for upload in uploads_of(whole, Role.UNLABELED):
        names = declared.get(upload.stage, {})
        assert bool(upload.knowledge) <= bool(names), (upload.stage, list(upload.knowledge))


def test_no_name_and_no_path_leaves_a_site(whole: Finished, tmp_path: Path):
    for upload in whole.exchange.uploads:
        prepared = whole.exchange.sites[upload.site].prepared
        secrets = {str(whole.folder), str(prepared.folder)}
        secrets |= {word for case in prepared.cases for word in (case.name, case.subject)}
        text = strings_in(upload)
        assert not [word for word in secrets if word in text], upload.site


def strings_in(upload: Upload) -> str:
    """Return everything of an upload that travels as text or could be read as text."""
    packed = pack_upload(upload)
    names = [*upload.weights, *upload.knowledge, *upload.metrics]
    raw = b"".join(a.data for record in packed.array_records.values() for a in record.values())
    return repr([names, packed.config_records, raw])


def test_evaluation_sends_sums_per_class_and_the_number_of_cases(whole: Finished):
    classes = "|".join(whole.exchange.sites["west"].task.foreground)
    pattern = re.compile(rf"cases|[a-z0-9_]+/({classes})/(sum|count)")
    evaluations = [u for u in whole.exchange.uploads if u.stage == "evaluate"]
    assert len(evaluations) == len(ROLES)
    for upload in evaluations:
        assert (upload.weights, upload.knowledge) == ({}, {})
        assert not [key for key in upload.metrics if not pattern.fullmatch(key)]


def test_a_run_leaves_only_the_files_it_is_known_for(whole: Finished):
    relative = [p.relative_to(whole.folder).as_posix() for p in files_under(whole.folder)]
    at_sites = [r"sites/(north|south|west)/" + pattern for pattern in AT_A_SITE]
    known = [re.compile(pattern) for pattern in [*IN_THE_FOLDER, *at_sites]]
    assert not [name for name in relative if not any(k.fullmatch(name) for k in known)]


def test_a_labeled_site_stores_no_pseudo_labels(whole: Finished):
    assert not files_under(whole.folder / "sites" / "north" / "pseudo")


def files_under(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def uploads_of(run: Finished, role: Role) -> list[Upload]:
    return [u for u in run.exchange.trained if u.role == role]


def weights_of(run: Finished) -> dict[str, object]:
    return dict(next(u.weights for u in run.exchange.trained if u.weights))
