"""What is learned from images without masks, against FedAvg on the masks alone, over three seeds.

The federation is drawn, and far smaller than any real one: the suite says that a method learns, not
how good it is.
"""

from __future__ import annotations

from statistics import mean

import pytest

from fedssl.methods import METHODS

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]

SEEDS = (0, 1, 2)
HEADLINE = ("denoise", "mutual", "reference", "quality")
BASELINES = [n for n, m in METHODS.items() if m.unlabeled is not None and n not in HEADLINE]
NOISE = 0.03
"""Of a mean over three seeds; Dice of two classes at two sites, ten cases each."""
CLEAR = 0.02


@pytest.fixture(scope="session")
def lower(learn) -> list[float]:
    return [learn("fedavg", seed) for seed in SEEDS]


def gains(learn, lower: list[float], method: str) -> list[float]:
    found = [learn(method, seed) - bound for seed, bound in zip(SEEDS, lower, strict=True)]
    print(f"{method}: {', '.join(f'{gain:+.3f}' for gain in found)}; mean {mean(found):+.3f}")
    return found


@pytest.mark.parametrize("method", HEADLINE)
def test_the_methods_of_the_mission_are_clearly_above_the_lower_bound(method, learn, lower):
    assert mean(gains(learn, lower, method)) > CLEAR


@pytest.mark.parametrize("method", BASELINES)
def test_every_other_method_is_at_least_the_lower_bound_within_noise(method, learn, lower):
    assert mean(gains(learn, lower, method)) > -NOISE
