"""A small trained network, and a hospital's folder of pictures."""

from __future__ import annotations

from pathlib import Path

import pytest
from trained_runs import FEDERATION, TASK, train, write_picture

from fedssl.deploy.site_file import SiteDraft, write_site_file


@pytest.fixture(scope="session")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(tmp_path_factory.mktemp("trained"), FEDERATION)


@pytest.fixture
def hospital(tmp_path: Path) -> Path:
    """A folder with five pictures and the site file of an unlabeled site."""
    (tmp_path / "data/images").mkdir(parents=True)
    for number in range(5):
        suffix = "jpg" if number == 4 else "png"
        write_picture(tmp_path / f"data/images/eye_{number}.{suffix}", number)
    draft = SiteDraft(
        name="west",
        role="unlabeled",
        task=TASK,
        coordinator="localhost:8443",
        path=str(tmp_path / "data"),
        root_certificates="",
        key="",
    )
    write_site_file(tmp_path / "site.toml", draft)
    return tmp_path
