"""What holds for every layout."""

from __future__ import annotations

import pytest

from fedssl.data.layouts import LAYOUTS
from fedssl.errors import DataError
from fedssl.federation import SiteSpec

NAMES = list(LAYOUTS)


def site(path, **options) -> SiteSpec:
    return SiteSpec(name="north", path=str(path), role="unlabeled", options=options)


@pytest.mark.parametrize("name", NAMES)
def test_an_empty_folder_is_refused_with_what_was_expected_in_it(name, tmp_path):
    with pytest.raises(DataError) as caught:
        LAYOUTS[name](site(tmp_path))
    text = str(caught.value)
    assert "'north'" in text
    assert str(tmp_path) in text
    assert "expected" in text or "Put the images into" in text


@pytest.mark.parametrize("name", NAMES)
def test_a_folder_of_other_things_is_refused(name, tmp_path):
    (tmp_path / "__MACOSX" / "images").mkdir(parents=True)
    (tmp_path / "reports" / "2020").mkdir(parents=True)
    (tmp_path / "reports" / "2020" / "letter.txt").write_text("Dear colleague")
    (tmp_path / ".hidden").write_bytes(b"\0")
    with pytest.raises(DataError, match="north"):
        LAYOUTS[name](site(tmp_path))


@pytest.mark.parametrize("name", NAMES)
def test_a_file_in_place_of_the_folder_is_refused(name, tmp_path):
    (tmp_path / "data.zip").write_bytes(b"PK\3\4")
    with pytest.raises(DataError, match=r"'north': the folder .*data\.zip does not exist"):
        LAYOUTS[name](site(tmp_path / "data.zip"))


@pytest.mark.parametrize("name", NAMES)
def test_an_unknown_option_is_refused_with_the_known_ones(name, tmp_path):
    with pytest.raises(DataError) as caught:
        LAYOUTS[name](site(tmp_path, colour="red"))
    text = str(caught.value)
    assert f"the layout '{name}' has no option 'colour'" in text
    assert all(f"{option}: " in text for option in (*LAYOUTS[name].options, "split"))


@pytest.mark.parametrize("name", NAMES)
def test_a_name_is_lower_case_with_hyphens(name):
    assert name == name.lower()
    assert "_" not in name
    assert " " not in name
