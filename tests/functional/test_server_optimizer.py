"""The rules of Reddi et al. (2021), worked by hand on one number."""

from __future__ import annotations

import math

import pytest
import torch

from fedssl.functional.server_optimizer import ServerState, server_update

EMPTY = ServerState({}, {})


def rounds(kind, averages, start=1.0, lr=0.5, beta1=0.9, beta2=0.99, tau=0.1):
    """Return the weight after each round; the sites' average is given as a change."""
    weights, state, path = {"w": torch.tensor([start])}, EMPTY, []
    for change in averages:
        average = {"w": weights["w"] + change}
        weights, state = server_update(
            weights, average, state, {"w"}, kind=kind, lr=lr, beta1=beta1, beta2=beta2, tau=tau
        )
        path.append(weights["w"].item())
    return path


def by_hand(second_moment, changes, start=1.0, lr=0.5, beta1=0.9, tau=0.1):
    w, m, v, path = start, 0.0, tau**2, []
    for d in changes:
        m = beta1 * m + (1 - beta1) * d
        v = second_moment(v, d)
        w += lr * m / (math.sqrt(v) + tau)
        path.append(w)
    return path


RULES = {
    "adagrad": lambda v, d: v + d**2,
    "adam": lambda v, d: 0.99 * v + 0.01 * d**2,
    "yogi": lambda v, d: v - 0.01 * d**2 * math.copysign(1, v - d**2),
}


@pytest.mark.parametrize("kind", list(RULES))
def test_adaptive_rules_follow_the_paper(kind):
    changes = [0.3, -0.05, 0.2]
    assert rounds(kind, changes) == pytest.approx(by_hand(RULES[kind], changes), rel=1e-6)


def test_momentum_adds_up_changes():
    # m = 0.4, then 0.9 * 0.4 - 0.1 = 0.26
    assert rounds("momentum", [0.4, -0.1]) == pytest.approx([1.2, 1.33], rel=1e-6)


def test_none_takes_the_average_bit_for_bit():
    average = {"w": torch.tensor([0.1, 0.3])}
    merged, state = server_update(
        {"w": torch.zeros(2)}, average, EMPTY, {"w"}, kind="none", lr=1, beta1=0, beta2=0, tau=1
    )
    assert merged["w"] is average["w"]
    assert state == EMPTY


def test_running_statistics_and_counters_take_the_average():
    weights = {"w": torch.zeros(1), "var": torch.ones(1), "n": torch.tensor(1)}
    average = {"w": torch.ones(1), "var": torch.full((1,), 0.25), "n": torch.tensor(7)}
    merged, state = server_update(
        weights, average, EMPTY, {"w"}, kind="adam", lr=1, beta1=0.9, beta2=0.99, tau=1e-3
    )
    assert (merged["var"], merged["n"]) == (average["var"], average["n"])
    assert merged["w"].dtype == torch.float32
    assert set(state.first) == set(state.second) == {"w"}


@pytest.mark.parametrize("kind", ["momentum", *RULES])
def test_sites_that_did_not_move_leave_the_weights(kind):
    assert rounds(kind, [0.0, 0.0]) == [1.0, 1.0]
