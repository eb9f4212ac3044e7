"""FedAvg that leaves normalisation layers at each site.

Li, Jiang, Zhang, Kamp, Dou, "FedBN: Federated Learning on Non-IID Features via Local Batch
Normalization", ICLR 2021 (arXiv 2102.07623).

Every entry of a normalisation layer (found by module type: batch, instance, group and layer norm)
is private: trained at the site, kept in its memory, never sent. Use `model.norm = "batch"` for the
published form. A site that never trains evaluates with initial normalisation layers.
"""

from __future__ import annotations

from torch import nn

from fedssl.methods.base import Method
from fedssl.methods.fedavg import FedAvgConfig, FedAvgRule, Supervised, no_payload
from fedssl.methods.server_optimizer import check_server_optimizer
from fedssl.models import build_unet
from fedssl.models.parts import norm_names

__all__ = ["METHOD", "private_norms"]


def private_norms(model: nn.Module) -> dict[str, list[str]]:
    """Return normalisation layers as `private` and everything else as `shared`."""
    private = norm_names(model)
    kept = set(private)
    return {"shared": [n for n in model.state_dict() if n not in kept], "private": private}


METHOD = Method(
    name="fedbn",
    summary="FedAvg with normalisation layers that stay at the sites (Li et al. 2021).",
    config=FedAvgConfig,
    server=FedAvgRule,
    labeled=Supervised,
    unlabeled=None,
    mixed=None,
    build_model=lambda run, task: build_unet(run.model, task),
    parts=private_norms,
    payload=no_payload,
    check=check_server_optimizer,
)
