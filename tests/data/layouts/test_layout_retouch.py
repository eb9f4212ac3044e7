from __future__ import annotations

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813 -- its customary name

from fedssl.errors import DataError

RNG = np.random.default_rng(0)
LABEL = RNG.integers(0, 4, (3, 6, 5)).astype(np.uint8)


def write(folder, *, masks: bool = True, dtype=np.uint8):
    folder.mkdir(parents=True)
    volume = RNG.integers(0, 255, (3, 6, 5)).astype(dtype)
    for name, array in (("oct", volume), ("reference", LABEL)):
        if name == "oct" or masks:
            image = sitk.GetImageFromArray(array)
            image.SetSpacing((0.01, 0.004, 0.12))
            sitk.WriteImage(image, str(folder / f"{name}.mhd"))
    return volume


@pytest.fixture
def tree(tmp_path):
    write(tmp_path / "RETOUCH-TrainingSet-Cirrus" / "TRAIN001")
    write(tmp_path / "RETOUCH-TrainingSet-Cirrus" / "TRAIN002")
    write(tmp_path / "RETOUCH-TestSet-Cirrus" / "TEST001", masks=False)
    nested = tmp_path / "TrainingSpectralis" / "RETOUCH-TrainingSet-Spectralis"
    write(nested / "TRAIN025", dtype=np.uint16)
    write(tmp_path / "TrainingTopcon" / "TRAIN049")
    return tmp_path


@pytest.mark.parametrize(
    ("vendor", "names"),
    [
        ("Cirrus", ["TRAIN001", "TRAIN002"]),
        ("Spectralis", ["TRAIN025"]),
        ("Topcon", ["TRAIN049"]),
    ],
)
def test_a_vendor_is_a_site_however_its_folder_is_spelled(tree, open_layout, vendor, names):
    source = open_layout("retouch", tree, mode="slices", classes=4, vendor=vendor)
    assert [c.name for c in source.cases] == names
    case = source.read(0)
    assert case.image.shape == (1, 3, 6, 5)
    np.testing.assert_array_equal(case.label, LABEL)
    assert case.spacing == pytest.approx((0.12, 0.004, 0.01))
    assert case.distance_unit == "mm"


def test_test_volumes_have_no_masks_and_are_taken_on_request(tree, open_layout):
    def names(volumes):
        source = open_layout(
            "retouch", tree, mode="slices", role="unlabeled", vendor="Cirrus", volumes=volumes
        )
        return [(c.name, c.has_label) for c in source.cases]

    assert names("test") == [("TEST001", False)]
    assert names("all") == [("TEST001", False), ("TRAIN001", True), ("TRAIN002", True)]


def test_vendors_are_not_mixed(tree, open_layout):
    with pytest.raises(DataError, match=r"volumes of Cirrus, Spectralis, Topcon.*vendor = "):
        open_layout("retouch", tree, mode="slices", classes=4)
    folder = tree / "RETOUCH-TrainingSet-Cirrus"
    assert len(open_layout("retouch", folder, mode="slices", classes=4).cases) == 2


def test_the_published_count_of_cirrus_is_compared(tree, open_layout, caplog):
    open_layout("retouch", tree, mode="slices", classes=4, vendor="Cirrus")
    assert "published with 24 images, 2 are in" in caplog.text


def test_the_digest_covers_the_pixel_files(tree, open_layout):
    source = open_layout("retouch", tree, mode="slices", classes=4, vendor="Topcon")
    before = source.content_key()
    raw = tree / "TrainingTopcon" / "TRAIN049" / "oct.raw"
    raw.write_bytes(raw.read_bytes()[::-1])
    assert source.content_key() != before
