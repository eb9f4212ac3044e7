"""The bank of references on its way: what a site sends, and what becomes of several."""

from __future__ import annotations

import logging
from dataclasses import replace

import pytest
import torch
from reference_banks import EYE, bank_of

from fedssl.errors import ConfigError
from fedssl.methods import load_config
from fedssl.methods.reference_bank import (
    bank_fault,
    bank_nbytes,
    collect,
    missing_classes,
    pack_bank,
    payload,
    union,
    unpack_bank,
    warn_if_small,
)
from fedssl.types import Output, Role, Task, Upload

CLASSES = ("background", "disc", "cup")
SLICES = Task("s", ("background", "prostate"), "slices", Output.EXCLUSIVE, 1)


def test_a_bank_survives_its_journey():
    bank = bank_of([0, 1, 2], [5, 6, 7])
    arrays = pack_bank(bank, 9)
    found = unpack_bank(arrays)
    assert found.round == 9
    assert torch.equal(found.bank.vectors, bank.vectors)
    assert torch.equal(found.bank.labels, bank.labels)
    assert torch.equal(found.bank.counts, bank.counts)
    assert sum(a.numel() * a.element_size() for a in arrays.values()) == bank_nbytes(3, 4)
    assert unpack_bank({}) is None
    assert unpack_bank(pack_bank(bank_of([]), 9)) is None


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({}, ""),
        ({"bank_round": torch.tensor(4, dtype=torch.int32)}, "made in round 5, not 6"),
        ({"bank_labels": torch.tensor([0, 1], dtype=torch.uint8)}, "[3, 2, 3] entries"),
        ({"bank_labels": torch.tensor([0, 1, 3], dtype=torch.uint8)}, "out of range"),
        ({"bank_counts": torch.tensor([5, 0, 7], dtype=torch.int32)}, "out of range"),
        ({"bank_vectors": 2 * EYE[:3].half()}, "unit length"),
    ],
)
def test_a_bank_that_cannot_be_used_is_named(change, words):
    arrays = {**pack_bank(bank_of([0, 1, 2], [5, 6, 7]), 5), **change}
    fault = bank_fault(arrays, num_classes=3, round_=5, largest=10)
    assert words in fault
    assert bool(words) == bool(fault)
    assert "incomplete" in bank_fault({}, num_classes=3, round_=5, largest=10)
    too_many = bank_fault(arrays, num_classes=3, round_=5, largest=2)
    assert words in too_many or "up to 2" in too_many


def uploads(*banks):
    return [
        Upload(f"s{i}", Role.LABELED, 5, "bank", knowledge=bank) for i, bank in enumerate(banks)
    ]


def gathered(*banks, previous=None):
    return collect(
        uploads(*banks),
        5,
        classes=CLASSES,
        previous=previous or {},
        largest=100,
        k_max=100,
        by_site=False,
    )


def test_a_bank_of_another_round_is_left_out_with_a_warning(caplog):
    with caplog.at_level(logging.WARNING, "fedssl"):
        found = gathered(pack_bank(bank_of([0, 1, 2]), 5), pack_bank(bank_of([1, 1]), 4))
    assert found["bank_labels"].tolist() == [0, 1, 2]
    assert int(found["bank_round"]) == 5
    assert "bank of site s1 is not used: it was made in round 5, not 6" in caplog.text


def test_a_bank_of_which_all_vectors_decide_is_told_once(caplog):
    small, large = (pack_bank(bank_of([0, 1] * n), 5) for n in (2, 9))
    for before, now in (({}, large), (large, small), (small, small), (small, {})):
        warn_if_small(now, before, 16)
    assert caplog.text.count("The bank has 4 vectors") == 1
    assert "18 vectors" not in caplog.text


def test_a_class_without_references_is_named_once(caplog):
    with caplog.at_level(logging.WARNING, "fedssl"):
        first = gathered(pack_bank(bank_of([0, 1]), 5))
        gathered(pack_bank(bank_of([0, 1]), 5), previous=first)
    assert caplog.text.count("No labeled site has references of cup") == 1
    assert missing_classes(first, CLASSES) == ["cup"]
    assert missing_classes({}, CLASSES) == list(CLASSES)


def test_a_union_that_is_too_large_is_clustered_again():
    rng = torch.Generator().manual_seed(0)
    vectors = torch.nn.functional.normalize(torch.randn((30, 4), generator=rng), dim=1)
    bank = bank_of([0] * 20 + [1] * 10, vectors=vectors)
    found = union([bank, bank], 5, k_max=12, num_classes=3, by_site=False)
    assert torch.bincount(found["bank_labels"].long()).tolist() == [8, 4]
    assert int(found["bank_counts"].sum()) == 2 * 30 * 20
    assert "bank_source" not in found
    assert union([], 5, k_max=12, num_classes=3, by_site=False) == {}


def test_by_site_every_site_keeps_an_equal_share_and_its_number():
    rng = torch.Generator().manual_seed(0)
    vectors = torch.nn.functional.normalize(torch.randn((30, 4), generator=rng), dim=1)
    large, small = bank_of([0] * 20 + [1] * 10, vectors=vectors), bank_of([0, 2])
    found = union([large, small], 5, k_max=12, num_classes=3, by_site=True)
    assert torch.bincount(found["bank_source"]).tolist() == [6, 2]
    assert found["bank_labels"][found["bank_source"] == 1].tolist() == [0, 2]


def test_more_classes_than_a_byte_can_name_are_refused():
    run = load_config({"method": "reference"})
    many = replace(SLICES, classes=tuple(f"c{i}" for i in range(300)))
    with pytest.raises(ConfigError, match="256"):
        payload(run, many, {})
