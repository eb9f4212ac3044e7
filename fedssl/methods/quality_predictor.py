"""The quality predictor at a labeled site: its training, and the test that it has to pass.

Abhishek and Hamarneh, arXiv 2606.01753, 2026. Differences: batches are those of the segmenter, with
its augmentation (geometry before the mask is corrupted, intensities of the image only); no early
stopping, as there are rounds; the test's sums are pooled over sites, and it uses labeled training
images that the predictor is not trained on, so that it takes no further masks.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as nnf
from typing_extensions import override

from fedssl.data.sampling import center_near, crop_or_pad, cut_start, take_slice
from fedssl.data.sizes import parse_size
from fedssl.errors import TrainingError
from fedssl.functional.corruption import Mask, corrupt_classes
from fedssl.functional.labels import foreground_targets
from fedssl.functional.quality import CorrelationSums
from fedssl.methods.base import LocalObjective, LocalSetup, Recipe, TrainingData
from fedssl.methods.quality_config import guide_config
from fedssl.methods.quality_masks import MaskSource
from fedssl.models.quality_net import QualityNet
from fedssl.seeds import generators
from fedssl.types import Arrays, Download, LabeledBatch, Losses, Term, UnlabeledBatch

__all__ = ["GATE", "PREDICTOR", "GateTest", "PredictorTraining", "held_out_cases", "predictor_of"]

PREDICTOR = "predictor"
"""The predictor's place in a guided model, its part, and the stage that trains it."""

GATE = "gate"
"""The stage that tests it."""

_GATE_IMAGES = 64
_GATE_MASKS = 5


def predictor_of(model: nn.Module) -> QualityNet:
    """Return the quality predictor of a guided model."""
    return cast("QualityNet", model.get_submodule(PREDICTOR))


def held_out_cases(setup: LocalSetup, data: TrainingData) -> list[int]:
    """Return the labeled cases that are kept for the gate, the same in every stage of a run.

    They are those of a random share of the subjects (`quality.held-out`), at least one of two.
    """
    subjects = {case: data.subject(case) for case in data.labeled}
    order = generators(setup.run.seed, "quality", "held-out").numpy.permutation(
        sorted(set(subjects.values()))
    )
    count = max(1, round(guide_config(setup.run).held_out * len(order))) if len(order) > 1 else 0
    kept = set(order[:count].tolist())
    return [case for case in data.labeled if subjects[case] in kept]


class PredictorTraining(LocalObjective):
    """Smooth L1 between predicted and true Dice; |difference| <= 1 makes that half the MSE."""

    @override
    def begin(self, download: Download, data: TrainingData) -> None:
        config, run = guide_config(self.setup.run), self.setup.run
        self._masks = MaskSource(self.setup, download.clock["quality_weak"])
        self._lr = config.predictor_lr * download.clock["quality_lr"]
        in_a_step = run.batch_size * config.masks_per_step
        wanted = ceil(config.masks_per_image * data.num_labeled / in_a_step)
        self._steps = wanted if config.predictor_steps < 0 else config.predictor_steps
        self._held_out = torch.tensor(held_out_cases(self.setup, data), dtype=torch.int64)
        data.keep_only([])

    @override
    def recipe(self, parameters: Sequence[nn.Parameter]) -> Recipe:
        config = guide_config(self.setup.run)
        optimizer = torch.optim.AdamW(
            parameters, self._lr, weight_decay=config.predictor_weight_decay
        )
        return Recipe(optimizer, self._steps, config.predictor_clip_norm)

    @override
    def training_step(
        self, labeled: LabeledBatch | None, unlabeled: UnlabeledBatch | None
    ) -> Losses:
        assert labeled is not None, "the engine gives labeled sites a labeled batch"
        used = ~torch.isin(labeled.case, self._held_out)
        if not used.any():
            return Losses()
        image, label = (maps[used.to(maps.device)] for maps in (labeled.image, labeled.label))
        graded = self._masks.draw(LabeledBatch(image, label, labeled.case[used]))
        predicted = predictor_of(self.setup.model)(graded.image, graded.mask).float()
        loss = nnf.smooth_l1_loss(predicted, graded.quality, reduction="none").mean(1)
        return Losses(None, [Term(PREDICTOR, loss, torch.ones_like(loss))])


class GateTest(LocalObjective):
    """Sums for two correlations on held-out images: with the truth, and with the image black.

    A site with one labeled subject tests on new masks of the images that it trained on.
    """

    @override
    def begin(self, download: Download, data: TrainingData) -> None:
        self._normal, self._blackout = CorrelationSums(), CorrelationSums()
        images = self._images(data, held_out_cases(self.setup, data) or data.labeled)
        predictor = predictor_of(self.setup.model).eval()
        with torch.no_grad():
            for image, masks, quality in self._graded(images):
                many = image.expand(len(masks), -1, -1, -1)
                scores = predictor(many, masks)
                black = predictor(torch.zeros_like(many), masks)
                self._normal += CorrelationSums.of(scores, quality)
                self._blackout += CorrelationSums.of(scores, black)

    @override
    def training_step(
        self, labeled: LabeledBatch | None, unlabeled: UnlabeledBatch | None
    ) -> Losses:
        raise TrainingError("The gate tests the quality predictor; it trains nothing.")

    @override
    def knowledge(self) -> Arrays:
        return {"normal": self._normal.to_tensor(), "blackout": self._blackout.to_tensor()}

    def _images(self, data: TrainingData, cases: Sequence[int]) -> list[tuple[int, Tensor, Mask]]:
        """Return up to 64 random pictures [C, H, W] with their case and true masks [F, H, W]."""
        rng, task = self.setup.rng.numpy, self.setup.task
        volumes = task.mode != "2d"
        places = [(c, z) for c in cases for z in range(len(data.label(c)) if volumes else 1)]
        chosen = sorted(rng.permutation(len(places))[:_GATE_IMAGES].tolist())
        found, opened = [], -1
        for case, position in (places[i] for i in chosen):
            if case != opened:
                whole, truth = data.image(case).cpu().numpy(), data.label(case).cpu().numpy()
                opened = case
            image, label = whole, truth
            if volumes:
                image, label = take_slice(whole, position, task.mode), truth[position]
            image, label = self._cut(image, label)
            target = foreground_targets(
                torch.from_numpy(label)[None], task.num_classes - 1, task.output
            )[0]
            found.append((case, torch.from_numpy(image), target.to(torch.uint8).numpy()))
        return found

    def _cut(self, image: np.ndarray, label: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return crops as the training ones: a share of them near foreground."""
        run, rng = self.setup.run, self.setup.rng.numpy
        patch = parse_size(run.patch_size, self.setup.task, "patch-size")
        if patch is None:
            return image, label
        size, counts = patch[-2:], np.count_nonzero(label, axis=1)
        center = None
        if counts.any() and rng.random() < run.foreground_fraction:
            center = center_near(label, counts, size, rng)
        start = cut_start(label.shape, size, rng, center)
        return (
            np.ascontiguousarray(crop_or_pad(image, start, size, edge=True)),
            np.ascontiguousarray(crop_or_pad(label, start, size, edge=False)),
        )

    def _graded(
        self, images: Sequence[tuple[int, Tensor, Mask]]
    ) -> Sequence[tuple[Tensor, Tensor, Tensor]]:
        """Return each picture with five masks [5, F, H, W] and their Dice scores [5, F]."""
        rng, config = self.setup.rng.numpy, guide_config(self.setup.run)
        graded = []
        for case, image, truth in images:
            bank = [t for c, _, t in images if c != case and t.shape == truth.shape]
            drawn = [
                corrupt_classes(truth, rng, bank=bank, probabilities=config.probabilities)
                for _ in range(_GATE_MASKS)
            ]
            masks = torch.from_numpy(np.stack([d.masks for d in drawn])).float()
            quality = torch.tensor([d.dice for d in drawn])
            device = self.setup.device
            graded.append((image.to(device), masks.to(device), quality.to(device)))
        return graded
