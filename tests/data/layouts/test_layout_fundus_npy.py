"""The layouts fundus-feddg and fundus-feal."""

from __future__ import annotations

import numpy as np
import pytest

from fedssl.errors import DataError

RNG = np.random.default_rng(0)
COLOUR = RNG.integers(0, 255, (8, 9, 3)).astype(np.float32)
DISC = np.zeros((8, 9))
DISC[1:7, 1:8] = 1
CUP = np.zeros((8, 9))
CUP[3:5, 3:5] = 1
LABEL = DISC + CUP


@pytest.fixture
def feddg(tmp_path):
    """Client 1: the disc holds the cup, 0/1; client 2: a rim without it, 0/255."""
    for client, (disc, scale) in {"client1": (DISC, 1), "client2": (DISC - CUP, 255)}.items():
        folder = tmp_path / "dataset" / client / "data_npy"
        folder.mkdir(parents=True)
        for name in ("G-1-L", "G-1-R"):
            channels = [*np.moveaxis(COLOUR, -1, 0), disc * scale, CUP * scale]
            np.save(folder / f"{name}.npy", np.stack(channels, axis=-1))
        amplitudes = tmp_path / "dataset" / client / "freq_amp_npy"
        amplitudes.mkdir()
        np.save(amplitudes / "amp_0.npy", np.zeros((3, 8, 9)))
    return tmp_path


@pytest.mark.parametrize("client", ["client1", "client2"])
@pytest.mark.parametrize(
    ("structure", "classes", "expected"),
    [("disc-cup", 3, LABEL), ("disc", 2, DISC), ("cup", 2, CUP)],
)
def test_disc_and_cup_of_feddg_become_one_mask(
    feddg, open_layout, client, structure, classes, expected
):
    source = open_layout(
        "fundus-feddg", feddg, channels=3, classes=classes, client=client, structure=structure
    )
    case = source.read(0)
    np.testing.assert_array_equal(case.image, np.moveaxis(COLOUR, -1, 0))
    np.testing.assert_array_equal(case.label, expected)


def test_both_eyes_of_a_person_are_one_subject(feddg, open_layout):
    folder = feddg / "dataset" / "client2"
    source = open_layout("fundus-feddg", folder, channels=3, classes=3)
    assert [(c.name, c.subject) for c in source.cases] == [("G-1-L", "G-1"), ("G-1-R", "G-1")]


@pytest.fixture
def feal(tmp_path):
    folder = tmp_path / "FedFundus_npy" / "client4"
    folder.mkdir(parents=True)
    for k in (1, 2, 10):
        array = np.concatenate([COLOUR, LABEL[..., None]], axis=-1)
        np.save(folder / f"sample{k}.npy", array.astype(np.uint8))
    return tmp_path


@pytest.mark.parametrize(
    ("structure", "classes", "expected"),
    [("disc-cup", 3, LABEL), ("disc", 2, DISC), ("cup", 2, CUP)],
)
def test_the_label_channel_of_feal_holds_disc_and_cup(
    feal, open_layout, structure, classes, expected
):
    source = open_layout(
        "fundus-feal", feal, channels=3, classes=classes, client="client4", structure=structure
    )
    assert [c.name for c in source.cases] == ["sample1", "sample10", "sample2"]
    case = source.read(0)
    np.testing.assert_array_equal(case.image, np.floor(np.moveaxis(COLOUR, -1, 0)))
    np.testing.assert_array_equal(case.label, expected)


def test_the_two_forms_are_not_taken_for_each_other(feddg, feal, open_layout):
    with pytest.raises(DataError, match=r"has 5 channels.*the layout fundus-feddg"):
        open_layout("fundus-feal", feddg / "dataset" / "client1" / "data_npy", channels=3)
    folder = feal / "FedFundus_npy" / "client4"
    (folder / "data_npy").mkdir()
    (folder / "sample1.npy").rename(folder / "data_npy" / "sample1.npy")
    with pytest.raises(DataError, match=r"has 4 channels.*the layout fundus-feal"):
        open_layout("fundus-feddg", folder, channels=3)


def test_published_counts_are_compared(feal, open_layout, caplog):
    open_layout("fundus-feal", feal, channels=3, classes=3, client="client4")
    assert "published with 400 images, 3 are in" in caplog.text


def test_an_unknown_client_and_a_wrong_folder_are_explained(feal, open_layout):
    with pytest.raises(DataError, match=r"client = 'client9' is unknown.*client1"):
        open_layout("fundus-feal", feal, channels=3, client="client9")
    with pytest.raises(DataError, match=r"no fundus-feddg tree; expected client2/data_npy"):
        open_layout("fundus-feddg", feal, channels=3, client="client2")
