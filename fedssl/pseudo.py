"""Pseudo-labels of a site's own images, for people to look at and to correct."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from fedssl.data.cache import PreparedSite
from fedssl.data.prepare import PreparePlan, prepare
from fedssl.data.site_data import SiteTrainingData
from fedssl.data.sizes import parse_size
from fedssl.data.source import CaseSource, open_source
from fedssl.data.splits import labeled_positions
from fedssl.errors import ConfigError, DataError
from fedssl.federation import SiteSpec
from fedssl.functional.labels import decode
from fedssl.functional.passes import stochastic_statistics
from fedssl.inference import predict_case
from fedssl.memory import FileMemory
from fedssl.methods.base import LocalSetup
from fedssl.methods.denoise_config import DenoiserConfig
from fedssl.methods.relabel import Relabeler
from fedssl.models.parts import stochastic
from fedssl.predict import Trained
from fedssl.seeds import derive_seed, generators, seeded
from fedssl.types import Role, Task

__all__ = [
    "PseudoCase",
    "PseudoSite",
    "expected_dice",
    "pseudo_label_site",
    "require_same_task",
    "unlabeled_cases",
]


@dataclass(frozen=True, slots=True)
class PseudoCase:
    """What a trained network says of one image without a mask.

    Args:
        index: position of the case at the site.
        name: its name; never leaves the site.
        image: [C, *S] float32, prepared.
        label: [*S] uint8 class indices, the pseudo-label.
        uncertainty: [*S] float32, the largest standard deviation of any class.
        trust: [*S] uint8, 1 where every class passes the denoiser's tests.
        predicted_dice: expected Dice in [0, 1], mean over foreground classes.
        trusted: share of trusted pixels in [0, 1].
    """

    index: int
    name: str
    image: np.ndarray
    label: np.ndarray
    uncertainty: np.ndarray
    trust: np.ndarray
    predicted_dice: float
    trusted: float


@dataclass(frozen=True, slots=True)
class PseudoSite:
    """A site's prepared cases and their stored pseudo-labels.

    Args:
        trained: the network that labels.
        prepared: the site's cases.
        data: holds the maps `pseudo` and `trust`.
        cases: positions that were labeled.
    """

    trained: Trained
    prepared: PreparedSite
    data: SiteTrainingData
    cases: tuple[int, ...]

    def case(self, index: int) -> PseudoCase:
        """Return everything about one case; its uncertainty is computed now."""
        maps = self.data.stored_maps(index)
        pseudo, trust = torch.from_numpy(np.array(maps["pseudo"])), np.array(maps["trust"]).min(0)
        prob, spread = _statistics(self.trained, self.data.image(index), self.prepared, index)
        return PseudoCase(
            index,
            self.prepared.cases[index].name,
            np.array(self.prepared.image(index)),
            decode(pseudo[None].float(), self.trained.seen.output)[0].to(torch.uint8).numpy(),
            spread.max(0).values.cpu().numpy(),
            trust,
            expected_dice(prob.cpu(), pseudo),
            float(trust.mean()),
        )


def expected_dice(prob: Tensor, label: Tensor) -> float:
    """Return the Dice that a label has on average if its probabilities are right.

    `2 sum(p y) / (sum(p) + sum(y))`, the mean over classes of a ratio of expectations; a class
    that is neither labeled nor probable counts as 1.

    Args:
        prob: [F, *S] foreground probabilities.
        label: [F, *S] binary.
    """
    p, y = prob.double().flatten(1), label.double().flatten(1)
    total = p.sum(1) + y.sum(1)
    absent = total < 1e-6
    ratio = 2 * (p * y).sum(1) / total.clamp_min(1e-6)
    return float(torch.where(absent, torch.ones_like(ratio), ratio).mean())


def unlabeled_cases(prepared: PreparedSite, spec: SiteSpec) -> tuple[int, ...]:
    """Return the positions of the images whose masks are not used; all of an unlabeled site's."""
    everything = range(len(prepared.cases))
    used = set(labeled_positions(prepared, tuple(everything), spec))
    return tuple(i for i in everything if i not in used)


@contextmanager
def pseudo_label_site(
    trained: Trained, spec: SiteSpec, task: Task, cache: Path, *, most: int | None = None
) -> Iterator[PseudoSite]:
    """Label a site's images without masks as `denoise` would; the maps go when the block ends.

    Args:
        trained: network of a finished run.
        spec: the site.
        task: the site's task.
        cache: folder for prepared images.
        most: label this many cases, evenly spread over the names; None: all.

    Raises:
        ConfigError: the run was trained for another task.
        DataError: every image has a mask that is used.
    """
    require_same_task(trained.task, task)
    source: CaseSource = open_source(spec, task)
    prepared = prepare(source, PreparePlan.from_run(trained.run, task), cache)
    cases = unlabeled_cases(prepared, spec)
    if not cases:
        raise DataError(
            f"Every image of site {spec.name!r} has a mask that is used; there is nothing to label."
        )
    chosen = cases if most is None else _spread(cases, most)
    with tempfile.TemporaryDirectory() as folder:
        data = SiteTrainingData(
            prepared, chosen, (), task, trained.run, trained.device, Path(folder) / "pseudo"
        )
        setup = _setup(trained, spec.role, Path(folder))
        seed = derive_seed(trained.run.seed, "pseudo", spec.name)
        with torch.no_grad(), seeded(seed, trained.device):
            Relabeler(_denoiser(trained), setup, []).relabel(data, None)
        yield PseudoSite(trained, prepared, data, chosen)


def require_same_task(ours: Task, theirs: Task) -> None:
    """Raise `ConfigError` unless a network fits a site."""
    for field in ("classes", "mode", "output", "channels"):
        if getattr(ours, field) != getattr(theirs, field):
            raise ConfigError(
                f"The run was trained with {field} = {getattr(ours, field)!r}, the site file has "
                f"{getattr(theirs, field)!r}. Take the model of this site's federation."
            )


def _spread(cases: Sequence[int], most: int) -> tuple[int, ...]:
    places = np.linspace(0, len(cases) - 1, min(most, len(cases))).round().astype(int)
    return tuple(cases[i] for i in dict.fromkeys(places.tolist()))


def _denoiser(trained: Trained) -> DenoiserConfig:
    config = trained.run.method_config
    return config if isinstance(config, DenoiserConfig) else DenoiserConfig()


def _setup(trained: Trained, role: Role, folder: Path) -> LocalSetup:
    return LocalSetup(
        config=trained.run.method_config,
        run=trained.run,
        task=trained.seen,
        model=trained.model,
        memory=FileMemory(folder / "memory", 0, 0),
        rng=generators(trained.run.seed, "pseudo"),
        device=trained.device,
        role=role,
    )


def _statistics(
    trained: Trained, image: Tensor, prepared: PreparedSite, index: int
) -> tuple[Tensor, Tensor]:
    """Return mean probability and spread [F, *S] over stochastic passes."""
    config, run = _denoiser(trained), trained.run

    def predictor(x: Tensor) -> tuple[Tensor, Tensor]:
        logits = (out.logits for out in trained.model.passes(x, config.passes))
        found = stochastic_statistics(logits, trained.seen.output, temperature=config.temperature)
        return found.mean_prob, found.uncertainty

    seed = derive_seed(run.seed, "uncertainty", prepared.cases[index].name)
    batch_norm = config.mc_bn_mode == "batch"
    with seeded(seed, trained.device), stochastic(trained.model, bn_batch=batch_norm):
        prob, spread = predict_case(
            predictor,
            image,
            trained.seen,
            patch=parse_size(run.patch_size, trained.task, "patch-size"),
            stride=trained.model.stride,
            overlap=run.evaluate.overlap,
            batch_size=run.batch_size,
        )
    return prob, spread
