"""Spherical k-means: clusters of directions, with optional weights."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as nnf
from jaxtyping import Float, Int
from torch import Tensor

__all__ = ["Clusters", "spherical_kmeans"]

_SEEDING_LIMIT = 4096
"""Points that seeding looks at; more change the seeds little and cost k passes each."""

_SAME_DIRECTION = 1e-6
"""Cosine distance below which two directions are not worth two seeds."""


@dataclass(frozen=True, slots=True)
class Clusters:
    """Result of k-means.

    Args:
        centroids: unit vectors; fewer than asked for where the points have fewer directions. A
            cluster whose points cancel out has the zero vector.
        assignment: the centroid of each point.
    """

    centroids: Float[Tensor, "k D"]
    assignment: Int[Tensor, " N"]


@torch.no_grad()
def spherical_kmeans(
    points: Float[Tensor, "N D"],
    k: int,
    *,
    iterations: int = 10,
    weights: Float[Tensor, " N"] | None = None,
    generator: torch.Generator | None = None,
) -> Clusters:
    """Cluster directions by cosine similarity (Dhillon and Modha, Machine Learning 2001).

    Seeds as k-means++ (Arthur and Vassilvitskii, SODA 2007): each next seed with a probability
    that grows with its distance `1 - cosine` to the nearest seed so far. Empty clusters keep
    their centroid.

    Args:
        points: at least one; scaled to unit length here.
        k: clusters, at least 1.
        iterations: updates of the centroids at most.
        weights: positive, e.g. how many pixels a point stands for.
        generator: CPU generator of the seeding. None: nothing is random; each seed is the point
            with the largest weight times distance.
    """
    points = nnf.normalize(points.float(), dim=1)
    mass = torch.ones(len(points), device=points.device) if weights is None else weights.float()
    centroids = _seeds(points, mass, min(k, len(points)), generator)
    assignment = (points @ centroids.T).argmax(1)
    for _ in range(iterations):
        # A matrix product instead of scattered additions, so that the sum has one fixed order.
        member = nnf.one_hot(assignment, len(centroids)).to(points.dtype) * mass[:, None]
        filled = member.sum(0) > 0
        mean = nnf.normalize(member.T @ points, dim=1)
        centroids = torch.where(filled[:, None], mean, centroids)
        previous, assignment = assignment, (points @ centroids.T).argmax(1)
        if torch.equal(previous, assignment):
            break
    return Clusters(centroids, assignment)


def _seeds(
    points: Float[Tensor, "N D"],
    mass: Float[Tensor, " N"],
    k: int,
    generator: torch.Generator | None,
) -> Float[Tensor, "k D"]:
    if generator is not None and len(points) > _SEEDING_LIMIT:
        some = torch.randperm(len(points), generator=generator)[:_SEEDING_LIMIT].to(points.device)
        points, mass = points[some], mass[some]
    chosen = [_draw(mass, generator)]
    distance = _distance(points, chosen[0])
    while len(chosen) < k and bool((distance > 0).any()):
        chosen.append(_draw(mass * distance, generator))
        distance = torch.minimum(distance, _distance(points, chosen[-1]))
    return points[chosen]


def _draw(potential: Float[Tensor, " N"], generator: torch.Generator | None) -> int:
    if generator is None:
        return int(potential.argmax())
    return int(torch.multinomial(potential.cpu(), 1, generator=generator))


def _distance(points: Float[Tensor, "N D"], seed: int) -> Float[Tensor, " N"]:
    distance = 1.0 - points @ points[seed]
    distance[seed] = 0.0
    return torch.where(distance > _SAME_DIRECTION, distance, torch.zeros_like(distance))
