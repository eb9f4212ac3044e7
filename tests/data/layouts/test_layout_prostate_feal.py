from __future__ import annotations

import numpy as np
import pytest

from fedssl.errors import DataError

RNG = np.random.default_rng(0)


@pytest.fixture
def tree(tmp_path):
    """Eleven slices, so that sorting by name is not sorting by number."""
    for case in ("Case00", "Case01"):
        folder = tmp_path / "FedProstate_npy" / "client2" / case
        folder.mkdir(parents=True)
        for k in range(11):
            image = np.full((4, 5), k / 10)
            mask = (RNG.random((4, 5)) > 0.5) * (k % 2 + 1)
            np.save(folder / f"slice{k}.npy", np.stack([image, mask], axis=-1))
    return tmp_path


def test_slices_are_pictures_and_a_case_is_a_subject(tree, open_layout):
    source = open_layout("prostate-feal", tree, client="client2")
    assert len(source.cases) == 22
    assert {c.subject for c in source.cases} == {"Case00", "Case01"}
    case = source.read(0)
    assert case.image.shape == (1, 4, 5)
    assert set(np.unique(case.label)) <= {0, 1}


def test_slices_become_volumes_in_the_order_of_their_numbers(tree, open_layout):
    source = open_layout("prostate-feal", tree, client="client2", mode="slices", volumes=True)
    assert [(c.name, c.subject) for c in source.cases] == [
        ("Case00", "Case00"),
        ("Case01", "Case01"),
    ]
    case = source.read(0)
    np.testing.assert_allclose(case.image[0, :, 0, 0], np.arange(11) / 10, rtol=1e-6)
    assert case.label.shape == (11, 4, 5)
    stored = np.load(tree / "FedProstate_npy/client2/Case00/slice1.npy")[..., 1]
    np.testing.assert_array_equal(case.label[1], stored > 0)


def test_arrays_of_other_channels_are_refused(tree, open_layout):
    np.save(tree / "FedProstate_npy/client2/Case00/slice5.npy", np.zeros((4, 5, 4)))
    with pytest.raises(DataError, match=r"slice5\.npy has 4 channels, but prostate-feal has 2"):
        open_layout("prostate-feal", tree, client="client2")
