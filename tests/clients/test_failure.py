"""What a failing site tells the coordinator names no path, file or case."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clients.failure import public_reason
from fedssl.errors import ConfigError, DataError, FederationError, TrainingError

HINT = " (details are in the site's own log)"


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (
            DataError("/data/John Doe/mri 1.nii.gz: 3 axes, the mask has 2."),
            "DataError: <...>",
        ),
        (DataError("Case 'doe_jane_1961' has no mask."), "DataError: Case <...> has no mask."),
        (
            DataError("The site's mask of case 'doe_jane' has the patient's value 3."),
            "DataError: The site's mask of case <...> has the patient's value 3.",
        ),
        (DataError("Case 'Jane O'Hara' has no mask."), "DataError: Case <...> has no mask."),
        (
            FileNotFoundError(2, "No such file or directory", "/srv/doe/image.png"),
            "FileNotFoundError: [Errno 2] No such file or directory: <...>",
        ),
        (
            RuntimeError('sitk::ERROR: The file "C:\\scans\\doe.nrrd" does not exist.'),
            "RuntimeError: sitk::ERROR: The file <...> does not exist.",
        ),
        (
            RuntimeError("Cannot read scans/doe/1.dcm or doe.dcm, 3.5 GiB are free"),
            "RuntimeError: Cannot read <...> or <...>, 3.5 GiB are free",
        ),
        (OSError("bad ~/scans of Jane\nsecond line"), "OSError: bad <...> second line"),
        (
            TrainingError("Round 3: the loss is NaN; lower 'lr'."),
            "TrainingError: Round 3: the loss is NaN; lower 'lr'.",
        ),
        (
            ConfigError("Key 'rounds': must be at least 1; got '0'."),
            "ConfigError: Key 'rounds': must be at least 1; got '0'.",
        ),
        (
            FederationError("Site 'a' is labeled and refuses the message 'train.unlabeled'."),
            "FederationError: Site 'a' is labeled and refuses the message 'train.unlabeled'.",
        ),
        (
            FederationError("site.toml has no [task] table."),
            "FederationError: <...> has no [task] table.",
        ),
    ],
)
def test_paths_files_and_quoted_names_of_data_stay_at_the_site(error: Exception, told: str) -> None:
    assert public_reason(error) == told + HINT


@given(
    st.lists(st.text(st.characters(categories=["L", "N"]), min_size=3), min_size=1, max_size=4),
    st.sampled_from([" ", "_", "-"]),
    st.sampled_from([DataError, ValueError, TrainingError, FederationError]),
)
def test_no_part_of_an_absolute_path_survives(
    words: list[str], joint: str, kind: type[Exception]
) -> None:
    name = joint.join(f"secret{word}" for word in words)
    for path in (f"/data/{name}/scan 1.png", f"D:\\{name}\\{name}", f"~/{name}"):
        assert "secret" not in public_reason(kind(f"Cannot open {path}: it is {name}"))
        assert "secret" not in public_reason(kind(f"({path})"))


def test_a_long_message_is_cut() -> None:
    assert len(public_reason(TrainingError("word " * 1000))) < 500
