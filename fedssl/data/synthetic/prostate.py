"""Volumes like T2-weighted MRI of the male pelvis, as six scanners would take them.

Fat, muscle, bladder, rectum and a gland with a bright peripheral zone and a mottled centre; the
label is the whole gland. Geometry is drawn in mm, so spacing and field of view act as they do in
real scans. It is a test object, not a model of disease.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from fedssl.data.synthetic.texture import Array, Rng, grid, logistic, smooth_noise

__all__ = ["CLASSES", "LOOKS", "ProstateLook", "draw_prostate"]

CLASSES = ("background", "prostate")


@dataclass(frozen=True, slots=True)
class ProstateLook:
    """How one scanner and its protocol differ from others.

    Args:
        slices: how many.
        spacing: mm per axis, slices first; it sets the field of view.
        fat, muscle, bladder, rectum: brightness of the tissues.
        rim: brightness of the gland's peripheral zone.
        centre: brightness of the gland's centre.
        mottle: strength of the texture inside the gland.
        edge: width of the gland's border in radii (partial volume, a faint capsule).
        blur: Gaussian sigma within slices, in pixels.
        noise: standard deviation of the complex noise (Rician magnitudes).
        bias: strength of the smooth bias field.
        coil: brightness that a coil in the rectum adds around it.
        motion: strength of ghosts along the rows.
    """

    slices: int
    spacing: tuple[float, float, float]
    fat: float = 0.75
    muscle: float = 0.22
    bladder: float = 1.0
    rectum: float = 0.3
    rim: float = 0.95
    centre: float = 0.45
    mottle: float = 0.08
    edge: float = 0.08
    blur: float = 0.5
    noise: float = 0.03
    bias: float = 0.1
    coil: float = 0.0
    motion: float = 0.0


LOOKS = (
    ProstateLook(14, (3.0, 1.5, 1.5)),
    ProstateLook(14, (3.3, 1.4, 1.4), fat=0.65, bias=0.2, noise=0.05, rim=0.88),
    ProstateLook(
        12, (4.0, 1.9, 1.9), muscle=0.32, rim=0.68, centre=0.42, edge=0.2, blur=0.9, noise=0.06
    ),
    ProstateLook(
        16, (2.5, 1.2, 1.2), fat=0.5, rim=0.68, centre=0.5, coil=2.5, noise=0.05, mottle=0.12
    ),
    ProstateLook(
        14, (3.0, 1.4, 1.4), fat=0.6, muscle=0.3, rim=0.4, centre=0.55, bladder=0.7, bias=0.3
    ),
    ProstateLook(
        12, (3.6, 1.7, 1.7), rectum=0.6, rim=0.66, centre=0.34, mottle=0.16, motion=0.4, noise=0.05
    ),
)
"""The looks of `hospital_a` ... `hospital_f`."""


def draw_prostate(
    anatomy: Rng, exposure: Rng, size: int, look: ProstateLook
) -> tuple[Array, np.ndarray]:
    """Draw one volume and its label.

    Args:
        anatomy: what two scans of one subject share.
        exposure: what differs between them: position, coil, noise.
        size: rows and columns.
        look: of the site; its in-plane spacing holds for 64 columns.

    Returns:
        Image [1, slices, size, size] float32, at least 0, and label [slices, size, size] uint8.
    """
    shape = (look.slices, size, size)
    extent = np.array(look.spacing) * (look.slices, 64, 64) / 2
    z, y, x = (g * np.float32(e) for g, e in zip(grid(shape), extent, strict=True))
    z, y, x = (a + np.float32(s) for a, s in zip((z, y, x), exposure.normal(0, 3, 3), strict=True))
    gland, inner = _gland(anatomy, z, y, x)
    image, rectum = _pelvis(anatomy, z, y, x, look)
    mottle = look.mottle * smooth_noise(anatomy, shape, (8, 26, 26))
    zones = look.rim + (look.centre - look.rim) * logistic(1 - inner, 0.3) + mottle
    capsule = 0.3 * np.exp(-(((gland - 1.04) / 0.06) ** 2))
    inside = logistic(1 - gland, look.edge)
    image = image + inside * (zones - image) - capsule * np.minimum(image, 0.6)
    return _scanner(image, rectum, exposure, look)[None], (gland < 1).astype(np.uint8)


def _ellipsoid(offsets: tuple[Array, ...], centre: np.ndarray, radii: np.ndarray) -> Array:
    """Return the distance to an ellipsoid's centre in its own radii; 1 is the surface."""
    squares = [((a - c) / r) ** 2 for a, c, r in zip(offsets, centre, radii, strict=True)]
    return np.asarray(np.sqrt(sum(squares)), np.float32)


def _gland(rng: Rng, z: Array, y: Array, x: Array) -> tuple[Array, Array]:
    """Return distances to the gland and to its centre zone, which lies towards the front (-y)."""
    radii = np.array([rng.uniform(13, 18), rng.uniform(13, 20), rng.uniform(18, 26)])
    tilt = rng.uniform(-0.25, 0.25)
    y = y - np.float32(tilt) * z
    angle = np.arctan2(y, x)
    lobes = 1 + rng.uniform(-0.05, 0.05) * np.cos(2 * angle) + rng.uniform(0, 0.06) * np.sin(angle)
    gland = _ellipsoid((z, y, x), np.zeros(3), radii) / lobes
    share = rng.uniform(0.55, 0.75)
    centre = np.array([0.0, -(1 - share) * 0.8 * radii[1], 0.0])
    return gland.astype(np.float32), _ellipsoid((z, y, x), centre, share * radii)


def _pelvis(
    rng: Rng, z: Array, y: Array, x: Array, look: ProstateLook
) -> tuple[Array, tuple[Array, Array]]:
    """Return what surrounds the gland, and where the rectum's axis lies (distances in mm)."""
    fat = look.fat + 0.05 * smooth_noise(rng, z.shape, (4, 14, 14))
    muscle = look.muscle + 0.03 * smooth_noise(rng, z.shape, (6, 22, 22))
    image = fat
    for side in (-1.0, 1.0):
        place = np.array([0.0, rng.uniform(-6, 4), side * rng.uniform(36, 42)])
        wall = _ellipsoid((z, y, x), place, np.array([60.0, rng.uniform(26, 34), 11.0]))
        image = image + logistic(1 - wall, 0.15) * (muscle - image)
        bone = _ellipsoid((z, y, x), place * (1, 1, 1.5), np.array([50.0, 22.0, 12.0]))
        image = image + logistic(1 - bone, 0.1) * (0.65 * look.fat - image)
    bladder = np.array([-rng.uniform(24, 30), -rng.uniform(10, 16), rng.uniform(-4, 4)])
    inside = logistic(1 - _ellipsoid((z, y, x), bladder, np.array([13.0, 20.0, 24.0])), 0.15)
    image = image + inside * (look.bladder - image)
    back, width = rng.uniform(27, 31), rng.uniform(9, 12)
    dy, dx = y - np.float32(back) - 0.2 * z, x - np.float32(rng.uniform(-3, 3))
    radius = np.hypot(dy, dx)
    image = image + logistic(1 - radius / width, 0.2) * (look.muscle - image)
    image = image + logistic(0.75 - radius / width, 0.2) * (look.rectum - image)
    return np.asarray(image, np.float32), (dy, dx)


def _scanner(image: Array, rectum: tuple[Array, Array], rng: Rng, look: ProstateLook) -> Array:
    """Return what the scanner of a site makes of the tissue."""
    field = np.exp(look.bias * rng.uniform(0.6, 1.4) * smooth_noise(rng, image.shape, (2, 3, 3)))
    near = np.exp(-np.hypot(*rectum) / 16)
    image = image * field * (1 + look.coil * rng.uniform(0.8, 1.2) * near)
    if look.motion > 0:
        shift = int(rng.integers(5, 12)) * image.shape[1] // 64
        ghost = np.roll(image, shift, 1) + np.roll(image, -shift, 1)
        image = (1 - look.motion) * image + look.motion / 2 * ghost
    sigma = look.blur * image.shape[-1] / 64
    image = ndimage.gaussian_filter(image, (0, sigma, sigma))
    noise = look.noise * rng.standard_normal((2, *image.shape), dtype=np.float32)
    return np.asarray(1000 * np.hypot(image + noise[0], noise[1]), np.float32)
