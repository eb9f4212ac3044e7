"""Small federations of `denoise`, its uploads and its rule."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import pytest
import torch
from tiny_federations import (
    Finished,
    Watched,
)

from fedssl.config import Scalar
from fedssl.data.site_data import SiteTrainingData
from fedssl.methods import load_config
from fedssl.methods.base import ServerSetup
from fedssl.methods.denoise import DenoiseRule
from fedssl.types import Output, Role, SiteInfo, Stage, Task, Upload

Start = Callable[..., Finished]

PAIR = {"north": "labeled", "west": "unlabeled"}

BASE: dict[str, Scalar] = {"denoise.warmup-rounds": 1, "denoise.passes": 2, "denoise.refresh": 1}


def trained(run: Finished, site: str) -> list[Upload]:
    return [u for u in run.exchange.trained if u.site == site and u.stage == "train"]


def random_upload(site: str, role: Role, seed: int, examples: int, labeled: int) -> Upload:
    generator = torch.Generator().manual_seed(seed)
    weights = {
        "w": torch.randn(3, 4, generator=generator),
        "steps": torch.tensor(seed),
    }
    metrics = {"retained": 0.5} if role != Role.LABELED else {}
    return Upload(site, role, 9, "train", examples, labeled, weights, metrics=metrics)


UPLOADS = [
    random_upload("a", Role.LABELED, 1, 10, 10),
    random_upload("b", Role.MIXED, 2, 50, 20),
    random_upload("c", Role.UNLABELED, 3, 30, 0),
    random_upload("d", Role.UNLABELED, 4, 40, 0),
]

STAGE = Stage("train", ("a", "b", "c", "d"), trains=("shared",))


def rule(keys: Mapping[str, Scalar], roles: tuple[str, ...] = ()) -> DenoiseRule:
    run = load_config({"method": "denoise", "rounds": 30, **keys})
    roster = {u.site: SiteInfo(u.site, u.role, u.num_examples, u.num_labeled) for u in UPLOADS}
    roster = {name: roster[name] for name in roles or roster}
    task = Task("t", ("background", "disc", "cup"), output=Output.NESTED, channels=3)
    return DenoiseRule(ServerSetup(run.method_config, run, task, roster, {"shared": ("w",)}))


def rounds_in_which_maps_are_stored(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Count rounds by the labeled site's training, and note when maps are stored."""
    written: list[int] = []
    rounds: set[int] = set()
    send, store = Watched.send, SiteTrainingData.store

    def counting(self, downloads, roster):
        rounds.update(d.round for d in downloads if d.stage == "train")
        return send(self, downloads, roster)

    def noting(self, case, **maps):
        written.append(len(rounds))
        store(self, case, **maps)

    monkeypatch.setattr(Watched, "send", counting)
    monkeypatch.setattr(SiteTrainingData, "store", noting)
    return written


THREE = {"east": "labeled", "north": "labeled", "west": "unlabeled"}


def stored(run: Finished, site: str) -> list[dict[str, np.ndarray]]:
    data = run.exchange.sites[site].data
    data.load_stored()
    return [{k: np.array(v) for k, v in data.stored_maps(c).items()} for c in data.unlabeled]
