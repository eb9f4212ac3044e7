"""Seeds come from purposes; what a block draws is restored after it."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedssl.seeds import derive_seed, generators, seeded

CPU = torch.device("cpu")


def test_a_seed_is_the_hash_of_its_purpose_on_every_machine():
    # sha256("0/2/train/site_a"), first eight bytes, little-endian, halved
    assert derive_seed(0, 2, "train", "site_a") == 6823622614085913576
    assert derive_seed(0, "init") == 3330654677893223573


@settings(deadline=None)
@given(st.integers(0, 2**63 - 1), st.integers(0, 999), st.text(max_size=8))
def test_seeds_fit_into_numpy_and_torch(seed: int, round_: int, site: str):
    value = derive_seed(seed, round_, site)
    assert 0 <= value < 2**63
    torch.Generator().manual_seed(value)
    np.random.default_rng(value)


def test_different_purposes_give_different_seeds():
    purposes = [(r, s, n) for r in range(20) for s in ("train", "proto") for n in ("a", "b", "c")]
    seeds = {derive_seed(seed, *p) for seed in (0, 1) for p in purposes}
    assert len(seeds) == 2 * len(purposes)


def test_the_two_generators_of_a_purpose_repeat():
    one, two = generators(3, "a"), generators(3, "a")
    assert one.numpy.random() == two.numpy.random()
    assert torch.equal(torch.rand(4, generator=one.torch), torch.rand(4, generator=two.torch))
    assert generators(3, "b").numpy.random() != generators(3, "a").numpy.random()


def draws() -> tuple[float, float, float]:
    return random.random(), float(np.random.rand()), float(torch.rand(()))  # noqa: NPY002 -- the global generator is what is meant


def test_a_seeded_block_repeats_whatever_was_drawn_before():
    with seeded(7, CPU):
        first = draws()
    draws()
    with seeded(7, CPU):
        assert draws() == first
    with seeded(8, CPU):
        assert draws() != first


def test_a_seeded_block_leaves_the_global_generators_as_they_were():
    torch.manual_seed(1)
    random.seed(1)
    np.random.seed(1)  # noqa: NPY002 -- the global generator is what is meant
    expected = draws()
    torch.manual_seed(1)
    random.seed(1)
    np.random.seed(1)  # noqa: NPY002 -- the global generator is what is meant
    with seeded(99, CPU):
        draws()
    with pytest.raises(RuntimeError), seeded(99, CPU):  # noqa: PT012 -- the with statement is the whole of it
        draws()
        raise RuntimeError
    assert draws() == expected
