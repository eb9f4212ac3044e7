"""What a site puts into its bank of references: subjects, not images, and a noise of its own."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from baseline_runs import local

from fedssl.memory import FileMemory
from fedssl.methods.reference_sources import build_bank
from fedssl.types import Role

KEYS = {"grid": 8, "min_pixels": 2, "purity": 0.5, "centroids": 4, "background_centroids": 4}


class Pictures:
    """Four pictures with a square of the first class, of as many subjects as are named."""

    labeled = (0, 1, 2, 3)
    unlabeled = ()

    def __init__(self, subjects):
        self._subjects = subjects

    def subject(self, case):
        return self._subjects[case]

    def image(self, case):
        return torch.rand(3, 32, 32, generator=torch.Generator().manual_seed(case))

    def label(self, case):
        mask = torch.zeros(32, 32, dtype=torch.int64)
        mask[4:20, 4:20] = 1
        return mask


def bank(tmp_path, subjects=(0, 1, 2, 3), round_=4, **keys):
    setup = local(tmp_path, "reference", Role.LABELED, **KEYS, **keys)
    setup = replace(setup, memory=FileMemory(tmp_path / "memory", round_, round_ + 1))
    return build_bank(setup, setup.config, Pictures(subjects), round_)


def test_the_images_of_one_subject_are_no_bank(tmp_path):
    assert len(bank(tmp_path).labels) > 1
    assert len(bank(tmp_path, (0, 0, 0, 0)).labels) == 0


def test_the_cap_is_one_of_subjects(tmp_path):
    two = bank(tmp_path, (0, 1, 0, 1), cap_per_image_class=6)
    assert two.counts.sum() <= 2 * 2 * 6
    assert bank(tmp_path, cap_per_image_class=6).counts.sum() > 2 * 2 * 6


def test_noise_does_not_follow_from_the_run_s_seed(tmp_path):
    here, there = tmp_path / "here", tmp_path / "there"
    clean = bank(tmp_path).vectors
    first = bank(here, noise_sigma=0.05).vectors
    assert torch.equal(bank(here, round_=5, noise_sigma=0.05).vectors, first) is False
    again = bank(here, round_=6, noise_sigma=0.05).vectors
    torch.testing.assert_close(bank(here, round_=6, noise_sigma=0.05).vectors, again)
    other = bank(there, noise_sigma=0.05).vectors
    assert 0 < (first - clean).abs().max() < 0.5
    assert (other - first).abs().max() > 0.01
    assert first.norm(dim=1).tolist() == pytest.approx([1.0] * len(first), abs=1e-5)
