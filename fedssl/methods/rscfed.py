"""RSCFed: the global model is the mean of consensus models over random subsets of sites.

Liang, Lin, Fu, Zhu, Li, "RSCFed: Random Sampling Consensus Federated Semi-supervised Learning",
CVPR 2022 (arXiv 2203.13993).

A re-implementation. Each round after the warm-up, M = 3 random subsets of 5 sites each give a
consensus: a mean by samples, then weights that fall with a site's distance from it. Unlabeled
sites: Mean Teacher with decay 0.999, the weak view's prediction sharpened with temperature 0.5, the
sum over classes of squared differences on the strong view, weight 0.02. Distance scales and the
multiplier of labeled sites are those that the authors use for skin images and for CIFAR. For
segmentation (ours) the loss is a mean over pixels. Gradient clipping (5) is `clip-norm`.
"""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import Field
from typing_extensions import override

from fedssl.functional.averaging import weighted_average
from fedssl.functional.consensus import Member, draw_subsets, sub_consensus
from fedssl.functional.consistency import sharpen
from fedssl.methods.base import Method, ServerSetup
from fedssl.methods.fedavg import Supervised, no_payload
from fedssl.methods.ssl_rule import FederatedConfig, PhasedRule, check_warmup
from fedssl.methods.teacher import StudentTeacher, TeacherConfig
from fedssl.methods.terms import consistency_term
from fedssl.models import build_unet
from fedssl.models.parts import shared_parts
from fedssl.seeds import generators
from fedssl.types import Arrays, Role, Stage, Term, UnlabeledBatch, Upload

__all__ = ["METHOD", "ConsensusConfig", "ConsensusRule", "Sharpened"]


class ConsensusConfig(FederatedConfig, TeacherConfig):
    """Keys of `rscfed`."""

    weight: float = Field(0.02, ge=0, description="final lambda of the unsupervised loss")
    ramp_rounds: int = Field(0, ge=-1, description="rounds of the ramp; -1 is rounds / 5, 0 none")
    ema_decay: float = Field(0.999, ge=0, lt=1, description="largest decay of the average")
    sharpening: float = Field(0.5, gt=0, le=1, description="temperature of the teacher's output")
    subsets: int = Field(3, ge=1, description="random subsets per round")
    subset_size: int = Field(5, ge=1, description="sites in a subset, at most")
    labeled_factor: float = Field(6.0, gt=0, description="how often labeled samples count")
    labeled_scale: float = Field(0.01, ge=0, description="of distances, with a labeled site")
    unlabeled_scale: float = Field(0.01, ge=0, description="of distances, without one")


class Sharpened(StudentTeacher):
    """Mixed and unlabeled sites: agree with the teacher's sharpened prediction."""

    @override
    def terms(self, batch: UnlabeledBatch) -> Sequence[Term]:
        config, output = self.setup.config, self.setup.task.output
        assert isinstance(config, ConsensusConfig)
        weak = batch.views["weak"].image
        target = sharpen(self.teacher.predict(weak), config.sharpening, output)
        logits = self.setup.model(batch.views["strong"].image).logits
        # The published loss sums over classes; the term is a mean over them.
        scale = self.step.scale * logits.shape[1]
        return [
            consistency_term("consistency", logits, target, image=weak, output=output, scale=scale)
        ]


class ConsensusRule(PhasedRule):
    """The mean of sub-consensus models."""

    def __init__(self, setup: ServerSetup) -> None:
        self.setup = setup
        assert isinstance(setup.config, ConsensusConfig)
        self._config = setup.config

    @override
    def merge(
        self, round_: int, stage: Stage, weights: Arrays, uploads: Sequence[Upload]
    ) -> Arrays:
        config = self._config
        shares = self.shares(round_, uploads)
        if not self.phases.joint(round_):
            return weighted_average([u.weights for u in uploads], shares)
        members = [_member(u, share) for u, share in zip(uploads, shares, strict=True) if share > 0]
        rng = generators(self.setup.run.seed, round_, "rscfed", "subsets").numpy
        found = [
            sub_consensus(
                [members[i] for i in subset],
                labeled_factor=config.labeled_factor,
                labeled_scale=config.labeled_scale,
                scale=config.unlabeled_scale,
            )
            for subset in draw_subsets(len(members), config.subsets, config.subset_size, rng)
        ]
        return weighted_average(found, [1.0] * len(found))


def _member(upload: Upload, share: float) -> Member:
    labeled = upload.role != Role.UNLABELED
    size = upload.num_labeled if labeled else upload.num_examples
    return Member(upload.weights, size, labeled, share / max(size, 1))


METHOD = Method(
    name="rscfed",
    summary="Mean of consensus models over random subsets of sites (Liang et al. 2022).",
    config=ConsensusConfig,
    server=ConsensusRule,
    labeled=Supervised,
    unlabeled=Sharpened,
    mixed=Sharpened,
    build_model=lambda run, task: build_unet(run.model, task),
    parts=shared_parts,
    payload=no_payload,
    check=check_warmup,
)
