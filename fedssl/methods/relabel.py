"""The denoiser at one site: pseudo-labels and the pixels to trust (DPL, Chen et al., MICCAI 2021).

Differences from DPL: prototypes are taken over all of a site's images, in sorted order, instead of
over batches of 8; features are reduced by average pooling; normalisation layers stay in eval mode
unless `mc-bn-mode = "batch"`, so that a pseudo-label does not depend on its neighbours in a batch;
u = 0 for a single pass; a class without reliable pixels has no prototype test.
"""

from __future__ import annotations

import copy
import itertools
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from fedssl.functional import denoising as dn
from fedssl.functional.labels import foreground_targets
from fedssl.functional.losses import trusted_pixels
from fedssl.functional.passes import stochastic_statistics
from fedssl.functional.shares import probability_counts, share_threshold
from fedssl.functional.views import look, undo
from fedssl.methods.base import LocalSetup, TrainingData
from fedssl.methods.denoise_config import DenoiserConfig
from fedssl.methods.whole_case import predict_whole
from fedssl.models import SegmentationModel
from fedssl.models.parts import stochastic
from fedssl.types import Arrays, Output

__all__ = ["Relabeler"]

FEATURE_FACTOR = 4
"""DPL compares features at a quarter of the resolution."""


class _Statistics(NamedTuple):
    prob: Tensor
    uncertainty: Tensor
    features: Tensor


class Relabeler:
    """Labels a site's images with one network, or with the mean of several.

    Args:
        config: thresholds and switches.
        setup: the objective's surroundings; its model holds the received weights.
        teachers: other weights to label with instead; empty: the received ones.
    """

    def __init__(
        self, config: DenoiserConfig, setup: LocalSetup, teachers: Sequence[Arrays]
    ) -> None:
        self._config = config
        self._setup = setup
        self._networks = [self._with_weights(weights) for weights in teachers] or [setup.model]

    def _with_weights(self, weights: Arrays) -> SegmentationModel:
        network = copy.deepcopy(self._setup.model)
        network.load_state_dict(weights, strict=False)
        return network

    def labeled_sums(self, data: TrainingData) -> dn.PrototypeSums:
        """Return weighted sums of features under the true masks of the labeled cases."""
        total: dn.PrototypeSums | None = None
        task = self._setup.task
        for case in data.labeled:
            stats = self._statistics(data.image(case))
            target = foreground_targets(data.label(case)[None], task.num_classes - 1, task.output)[
                0
            ]
            sums = self._sums(stats, target)
            total = sums if total is None else total + sums
        if total is None:
            raise ValueError("labeled_sums needs at least one labeled case")
        return total

    def relabel(
        self, data: TrainingData, received: dn.Prototypes | None, share: Tensor | None = None
    ) -> Tensor:
        """Store `pseudo` and `trust` maps [F, *S] uint8 of every unlabeled case.

        Args:
            data: a site's images.
            received: prototypes of the labeled sites, where they travel.
            share: foreground [F] that the labels shall have on average; None: what lies above
                gamma, or with `threshold = expected` the mean probability.

        Returns:
            Retained fraction per case and class [cases, F], in the order of `data.unlabeled`.
        """
        with tempfile.TemporaryDirectory() as folder:
            local = self._first_pass(data, Path(folder), share)
            if not self._config.uses_prototypes or local is None:
                return self._retained(data)
            prototypes = self._choose(_on_cpu(dn.prototypes(local)), received)
            self._second_pass(data, Path(folder), prototypes)
        return self._retained(data)

    def _first_pass(
        self, data: TrainingData, folder: Path, share: Tensor | None
    ) -> dn.PrototypeSums | None:
        """Store labels with the uncertainty test, and keep features for the prototype test."""
        config, total = self._config, None
        matched = share is not None or config.threshold == "expected"
        gamma = self._matched(data, folder, share) if matched else config.gamma
        mode: dn.TrustMode = (
            "uncertainty" if config.denoising in ("uncertainty", "both") else "none"
        )
        for case in data.unlabeled:
            kept = folder / f"{case}.pt"
            stats = _load(kept) if kept.exists() else self._statistics(data.image(case))
            raw = dn.pseudo_label(stats.prob[None], gamma, self._setup.task.output)
            trust = dn.trust_mask(
                raw, stats.uncertainty[None], None, None, eta=config.eta, mode=mode
            )
            label, trust = self._repaired(raw, trust)
            data.store(case, pseudo=label[0], trust=trust[0])
            if config.uses_prototypes:
                np.save(folder / f"{case}.npy", stats.features.cpu().numpy())
                sums = self._sums(stats, raw[0])
                total = sums if total is None else total + sums
        return total

    def _matched(self, data: TrainingData, folder: Path, share: Tensor | None) -> Tensor:
        """Return the thresholds [F, 1, 1(, 1)] that give a share, or that which is expected.

        Keeps what it looked at.
        """
        counts = expected = torch.zeros(())
        for case in data.unlabeled:
            stats = self._statistics(data.image(case))
            counts = counts + probability_counts(stats.prob)
            expected = expected + stats.prob.double().flatten(1).sum(1).cpu()
            axes = [1] * (stats.prob.ndim - 1)
            torch.save(tuple(stats), folder / f"{case}.pt")
        wanted = expected / counts.sum(1) if share is None else share
        return share_threshold(counts, wanted).reshape(-1, *axes)

    def _second_pass(self, data: TrainingData, folder: Path, prototypes: dn.Prototypes) -> None:
        for case in data.unlabeled:
            stored = data.stored_maps(case)
            label = torch.from_numpy(np.array(stored["pseudo"]))[None]
            features = torch.from_numpy(np.load(folder / f"{case}.npy"))[None]
            proto = dn.upsample_nearest(dn.prototype_label(features, prototypes), label.shape[2:])
            agrees = dn.trust_mask(
                label,
                torch.zeros(label.shape),
                proto,
                prototypes.valid,
                eta=self._config.eta,
                mode="prototype",
            )
            trust = agrees * torch.from_numpy(np.array(stored["trust"]))[None]
            data.store(case, pseudo=label[0], trust=trust[0])

    def _repaired(self, label: Tensor, trust: Tensor) -> tuple[Tensor, Tensor]:
        if self._config.largest_component:
            flat = label[0].cpu().numpy()
            kept = np.stack([dn.largest_component(mask) for mask in flat])
            largest = torch.from_numpy(kept).to(label)[None]
            trust = trust * (largest == label).to(trust.dtype)
            label = largest
        if self._setup.task.output == Output.NESTED:  # last: a component may lie in a removed one
            label, trust = dn.denoise_nested(label, trust)
        return label, trust

    def _choose(self, local: dn.Prototypes, received: dn.Prototypes | None) -> dn.Prototypes:
        """Return the prototypes to test against; `mix` is the mean where both exist."""
        if received is None or self._config.prototypes == "local":
            return local
        if self._config.prototypes == "labeled":
            return received
        both = (local.valid & received.valid)[:, None]
        only_local = (local.valid & ~received.valid)[:, None]

        def mixed(ours: Tensor, theirs: Tensor) -> Tensor:
            alone = torch.where(only_local, ours, theirs)
            return torch.where(both, (ours + theirs) / 2, alone)

        return dn.Prototypes(
            mixed(local.object, received.object),
            mixed(local.background, received.background),
            local.valid | received.valid,
        )

    def _sums(self, stats: _Statistics, label: Tensor) -> dn.PrototypeSums:
        grid = dn.to_feature_grid(
            label[None], stats.prob[None], stats.uncertainty[None], tuple(stats.features.shape[1:])
        )
        return dn.prototype_sums(
            stats.features[None], grid.label, grid.prob, grid.uncertainty, self._config.eta
        )

    def _statistics(self, image: Tensor) -> _Statistics:
        setup, config = self._setup, self._config

        def predictor(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            total: list[Tensor] = []

            def passes() -> Iterator[Tensor]:
                for network, view in itertools.product(self._networks, config.views):
                    seen = look(x, view, multiple=network.stride)
                    for out in network.passes(seen, config.passes):
                        reduced = dn.downsample_features(out.features, FEATURE_FACTOR)
                        sides = zip(x.shape[2:], reduced.shape[2:], seen.shape[2:], strict=True)
                        grid = [side * low // high for side, low, high in sides]
                        reduced = undo(reduced, view, grid)
                        total[:] = [total[0] + reduced] if total else [reduced]
                        yield undo(out.logits, view, x.shape[2:])

            stats = stochastic_statistics(
                passes(),
                setup.task.output,
                temperature=config.temperature,
                group=config.passes if config.doubt == "passes" else None,
            )
            count = config.passes * len(config.views) * len(self._networks)
            return stats.mean_prob, stats.uncertainty, total[0] / count

        with ExitStack() as modes:
            for network in self._networks:
                modes.enter_context(stochastic(network, bn_batch=config.mc_bn_mode == "batch"))
            prob, uncertainty, features = predict_whole(setup, predictor, image)
        return _Statistics(prob, uncertainty, features)

    def _retained(self, data: TrainingData) -> Tensor:
        if not data.unlabeled:
            return torch.zeros(0, self._setup.task.num_classes - 1)
        fractions = []
        for case in data.unlabeled:
            trust = torch.from_numpy(np.array(data.stored_maps(case)["trust"]))[None]
            # What is trained on: of exclusive classes, pixels that all of them trust.
            kept = trusted_pixels(trust, self._setup.task.output).expand_as(trust)
            fractions.append(dn.retained_fraction(kept))
        return torch.stack(fractions)


def _load(path: Path) -> _Statistics:
    return _Statistics(*torch.load(path, weights_only=True))


def _on_cpu(prototypes: dn.Prototypes) -> dn.Prototypes:
    return dn.Prototypes(
        prototypes.object.cpu(), prototypes.background.cpu(), prototypes.valid.cpu()
    )
