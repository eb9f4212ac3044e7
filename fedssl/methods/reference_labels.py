"""Labels of a site's unlabeled images, looked up once per round and kept at the site."""

from __future__ import annotations

import copy
import logging
from collections.abc import Sequence

import torch
from torch import Tensor

from fedssl.functional.averaging import cpu_copy
from fedssl.functional.labels import foreground_targets, label_from_foreground
from fedssl.methods.base import LocalSetup, TrainingData
from fedssl.methods.reference_bank import ReceivedBank, unpack_bank
from fedssl.methods.reference_config import ReferenceConfig
from fedssl.methods.reference_sources import pool_of, references_of
from fedssl.methods.retrieval import Look, Proposal, RetrievalConfig, look_at, propose
from fedssl.methods.teacher import evaluating
from fedssl.models import SegmentationModel
from fedssl.types import Download, LabeledBatch, Output, UnlabeledBatch

__all__ = ["CachedLabels", "pool_proposal", "stored_proposal", "surer"]

log = logging.getLogger("fedssl")

_ROUND = "anchor_round"
_FULL = 255


class CachedLabels:
    """The anchor in the site's memory, and labels found with it.

    Distances mean something only between features of one network, so a bank of round t is used
    with the weights of round t (the anchor) or not at all.
    """

    def __init__(self, setup: LocalSetup, config: ReferenceConfig) -> None:
        self._setup, self._config = setup, config
        self._weights: list[Tensor] = []
        self._skipped = 0.0
        self.ready = False

    def remember(self, download: Download) -> None:
        """Keep the received weights as the anchor of a later round."""
        stamp = {_ROUND: torch.tensor(download.round)}
        self._setup.memory.save("anchor", {**cpu_copy(download.weights), **stamp})

    def make(self, download: Download, data: TrainingData) -> None:
        """Store `pseudo`, `trust` and `weight` of unlabeled cases, if a bank fits the anchor.

        With `cases-per-round` it is so many of them, drawn anew in every round, and batches are
        drawn from those.

        `pseudo` and `trust` (weight above 0) are [F, *S] uint8, `weight` is [1, *S] uint8 with 255
        for 1; a soft readout also keeps `soft` [K, *S] float16.
        """
        received = unpack_bank(download.knowledge)
        network = None if received is None else self._anchor(received, download)
        if received is None or network is None:
            self._skipped = 1.0
            # A batch carries the same maps for all its cases: those of earlier rounds, or none.
            data.keep_only([c for c in data.unlabeled if data.stored_maps(c)] or data.unlabeled)
            return
        references = references_of(received, self._setup, network, self._config, data)
        data.keep_only(self._chosen(data))
        for case in data.kept:
            look = look_at(self._setup, network, data.image(case), self._config)
            self._store(data, case, propose(look, references, self._config))
        self.ready = bool(data.kept)

    def _chosen(self, data: TrainingData) -> Sequence[int]:
        count, total = self._config.cases_per_round, len(data.unlabeled)
        if not 0 < count < total:
            return data.unlabeled
        drawn = self._setup.rng.numpy.choice(total, count, replace=False)
        return [data.unlabeled[position] for position in sorted(drawn.tolist())]

    def _anchor(self, received: ReceivedBank, download: Download) -> SegmentationModel | None:
        """Return the network that made the bank, or None if it is not here."""
        if received.round == download.round:
            return self._setup.model
        kept = self._setup.memory.load("anchor") or {}
        have = kept.pop(_ROUND, None)
        if have is None or int(have) != received.round:
            log.warning(
                "Site %s, round %d: the reference bank was made with the weights of round %d, but "
                "this site keeps %s. Labels by reference are left out of this round.",
                download.site,
                download.round + 1,
                received.round + 1,
                "none" if have is None else f"those of round {int(have) + 1}",
            )
            return None
        network = copy.deepcopy(self._setup.model)
        network.load_state_dict(kept, strict=False)
        return network

    def _store(self, data: TrainingData, case: int, found: Proposal) -> None:
        task = self._setup.task
        sliced = task.mode in ("slices", "2.5d")
        label = found.label if sliced else found.label[0]
        weight = (found.weight if sliced else found.weight[0])[None]
        foreground = task.num_classes - 1
        pseudo = foreground_targets(label[None], foreground, task.output)[0].to(torch.uint8)
        stored = (weight * _FULL).round().to(torch.uint8)
        maps = {"pseudo": pseudo, "weight": stored}
        maps["trust"] = (stored > 0).to(torch.uint8).expand_as(pseudo)
        if found.soft is not None:
            maps["soft"] = (found.soft.transpose(0, 1) if sliced else found.soft[0]).half()
        data.store(case, **maps)
        self._weights.append(stored.float().mean() / _FULL)

    def metrics(self) -> dict[str, float]:
        """Return `trusted`, the mean weight of all pixels, 0 without labels; and `no_reference`."""
        if not self._weights:
            return {"trusted": 0.0, "no_reference": self._skipped}
        return {"trusted": float(torch.stack(self._weights).mean()), "no_reference": 0.0}


def stored_proposal(batch: UnlabeledBatch) -> Proposal:
    """Return the labels that came with a batch; weight 0 beyond the border of the image."""
    stored = batch.stored
    soft = stored["soft"].float() if "soft" in stored else None
    label = label_from_foreground(stored["pseudo"], Output.EXCLUSIVE)
    return Proposal(label, stored["weight"][:, 0].float() / _FULL, soft)


@torch.no_grad()
def pool_proposal(
    setup: LocalSetup, config: RetrievalConfig, labeled: LabeledBatch, image: Tensor
) -> Proposal | None:
    """Return labels for a view by the step's pool, the first labeled samples of the batch.

    Pool and view pass through the current network in eval mode, in one batch.

    Args:
        setup: the objective's surroundings.
        config: size of the pool, matching.
        labeled: the step's labeled batch.
        image: [B, C, *S] view of the unlabeled batch.
    """
    count = min(config.pool_images, len(labeled.image))
    with evaluating(setup.model):
        out = setup.model(torch.cat((labeled.image[:count], image)))
    features, classes = out.features.float(), setup.task.num_classes
    references = pool_of(features[:count], labeled.label[:count], config, classes, setup.rng.torch)
    if references is None:
        return None
    prob = torch.softmax(out.logits[count:].float(), 1)
    return propose(Look.of(features[count:], prob, config), references, config)


def surer(a: Proposal | None, b: Proposal | None) -> Proposal | None:
    """Return, pixel by pixel, the one of two proposals that has more weight; `a` on ties."""
    if a is None or b is None:
        return a if b is None else b
    first = a.weight >= b.weight
    soft = None
    if a.soft is not None and b.soft is not None:
        soft = torch.where(first[:, None], a.soft, b.soft)
    label = torch.where(first, a.label, b.label)
    return Proposal(label, torch.where(first, a.weight, b.weight), soft)
