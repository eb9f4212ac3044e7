"""How mutual learning fares at one site, and an alarm when it has collapsed.

Where no mask holds the decoders, agreeing on background everywhere, or on foreground everywhere, is
the cheapest solution: the entropy is low, the reliability near 1, and the loss minimal.
"""

from __future__ import annotations

import logging
from itertools import pairwise

import torch
from torch import Tensor

from fedssl.functional.mutual import MutualLoss

__all__ = ["Health"]

log = logging.getLogger("fedssl")

_AGREED = 0.999


class Health:
    """Sums over the steps of a stage, on the device; the host reads them once, at the end.

    Args:
        num_classes: K.
        alarm_foreground: smallest fraction of foreground pixels in pseudo-labels, and of background
            ones, that is no alarm.
    """

    def __init__(self, num_classes: int, alarm_foreground: float) -> None:
        self._classes, self._alarm = num_classes, alarm_foreground
        self._steps = 0
        self._sums: dict[str, Tensor] = {}
        self._pairs: tuple[tuple[int, int], ...] = ()

    @torch.no_grad()
    def record(self, loss: MutualLoss, first_unlabeled: int) -> None:
        """Add one step.

        Args:
            loss: of the step.
            first_unlabeled: position of the first unlabeled sample among those in scope; equal to
                their number where there is none.
        """
        self._steps += 1
        self._add("supervised", loss.supervised)
        self._add("consistency", loss.consistency)
        if not len(loss.teachers[0].label):
            return
        self._pairs = loss.pairs
        self._add("selected", loss.selected)
        self._add_reliability(loss)
        pool = slice(first_unlabeled, None)
        if first_unlabeled < len(loss.teachers[0].label):
            labels = [t.label[pool] for t in loss.teachers]
            self._add("pixels", torch.tensor(float(labels[0].numel())))
            self._add("foreground", (labels[0] > 0).sum().double())
            self._add_agreement(labels)

    def _add_reliability(self, loss: MutualLoss) -> None:
        for teacher in loss.teachers:
            members = [teacher.label == c for c in range(self._classes)]
            sums = [(teacher.reliability * m).sum(dtype=torch.float64) for m in members]
            self._add("reliability", torch.stack(sums))
            self._add("labeled_pixels", torch.stack([m.sum() for m in members]))

    def _add_agreement(self, labels: list[Tensor]) -> None:
        for a, b in pairwise(labels):
            self._add("agreed", (a == b).sum().double())
            self._add("overlap", ((a == b) & (a > 0)).sum().double())
            self._add("area", (a > 0).sum().double() + (b > 0).sum().double())
            self._add("compared", torch.tensor(float(a.numel())))

    def _add(self, name: str, value: Tensor) -> None:
        old = self._sums.get(name)
        self._sums[name] = value.detach() if old is None else old + value.detach()

    def metrics(self) -> dict[str, float]:
        """Return the stage's means.

        `supervised` and `consistency` without their factors; per pair the share of voxels that the
        student learned from; per class of the pseudo-label the mean reliability; over unlabeled
        samples the foreground fraction of decoder 1, the share of pixels on which neighbouring
        decoders agree, their disagreement 1 - Dice of the foreground, and `collapsed`.
        """
        sums = {name: value.cpu().double() for name, value in self._sums.items()}
        plain = ("supervised", "consistency")
        found = {name: float(sums[name]) / self._steps for name in plain if name in sums}
        if "selected" in sums:
            shares = (sums["selected"] / self._steps).tolist()
            found |= {
                f"selected/{i + 1}-from-{j + 1}": share
                for (i, j), share in zip(self._pairs, shares, strict=True)
            }
            found |= {
                f"reliability/{c}": float(total / count)
                for c, (total, count) in enumerate(
                    zip(sums["reliability"], sums["labeled_pixels"], strict=True)
                )
                if count > 0
            }
        if "pixels" in sums:
            area = float(sums["area"])
            found["foreground"] = float(sums["foreground"] / sums["pixels"])
            found["agreement"] = float(sums["agreed"] / sums["compared"])
            found["disagreement"] = 1 - 2 * float(sums["overlap"]) / area if area else 0.0
            found["collapsed"] = float(
                min(found["foreground"], 1 - found["foreground"]) < self._alarm
            )
        return found

    def warn(self, site: str, metrics: dict[str, float]) -> None:
        """Log a warning if the pseudo-labels of a stage are all but empty, or all but full."""
        if not metrics.get("collapsed"):
            return
        agreed = metrics["agreement"]
        also = f" and the decoders agree on {agreed:.2%} of the pixels" if agreed > _AGREED else ""
        log.warning(
            "Site %s: the decoders' labels of unlabeled images hold %.4f %% foreground%s; training "
            "has probably collapsed to %s. A longer mutual.warmup-rounds, a smaller "
            "mutual.unlabeled-weight, fewer local-steps, mutual.proximal > 0, or in short runs "
            "mutual.ce-weight = 1 help against it.",
            site,
            100 * metrics["foreground"],
            also,
            "background" if metrics["foreground"] < 0.5 else "foreground",
        )
