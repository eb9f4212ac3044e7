"""Pictures and volumes on disk for the tests of fedssl.data."""

from __future__ import annotations

import resource
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813 -- its customary name
from coded_sites import batches_over

from fedssl.data.batches import Batches, SiteTrainingData
from fedssl.data.cache import CacheWriter, PreparedSite, open_prepared
from fedssl.data.cropping import whole

WriteImage = Callable[..., Path]


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test writes into the user's cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("user-cache")))


@pytest.fixture(scope="module")
def bounded_memory() -> Iterator[None]:
    """No header, whatever it claims, makes the process grow."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    yield
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    assert grown < 300, f"reading broken files took {grown:.0f} MiB"


@pytest.fixture
def write_image() -> WriteImage:
    """Write [*S] or, with vector=True, [*S, C] as a file of any supported format."""

    def write(
        path: Path,
        array: np.ndarray,
        *,
        vector: bool = False,
        spacing: Sequence[float] | None = None,
        origin: Sequence[float] | None = None,
        direction: Sequence[float] | None = None,
        compress: bool = False,
    ) -> Path:
        image = sitk.GetImageFromArray(array, isVector=vector)
        if spacing is not None:
            image.SetSpacing(spacing)
        if origin is not None:
            image.SetOrigin(origin)
        if direction is not None:
            image.SetDirection(direction)
        path.parent.mkdir(parents=True, exist_ok=True)
        sitk.WriteImage(image, str(path), compress)
        return path

    return write


@pytest.fixture
def prepared_site(tmp_path: Path) -> Callable[..., PreparedSite]:
    """Build a prepared site from arrays: images [C, *S], labels [*S] or None."""

    def build(
        images: Sequence[np.ndarray],
        labels: Sequence[np.ndarray | None],
        *,
        subjects: Sequence[str] | None = None,
        key: str = "site",
    ) -> PreparedSite:
        with CacheWriter(tmp_path / "cache", key) as writer:
            for i, (image, label) in enumerate(zip(images, labels, strict=True)):
                dims = image.ndim - 1
                writer.add(
                    image.astype(np.float32),
                    label,
                    name=f"case{i}",
                    subject=subjects[i] if subjects else f"case{i}",
                    spacing=(1.0,) * dims,
                    distance_unit="pixel",
                    original_shape=image.shape[1:],
                    box=whole(image.shape[1:]),
                )
            writer.finish()
        site = open_prepared(tmp_path / "cache", key)
        assert site is not None
        return site

    return build


@pytest.fixture
def site_batches(
    prepared_site: Callable[..., PreparedSite], tmp_path: Path
) -> Callable[..., tuple[Batches, SiteTrainingData]]:
    """Return batches over given images, labels and roles, and the data behind them."""
    return partial(batches_over, prepared_site, tmp_path)
