"""Colour pictures of an eye's fundus around the optic disc, as five cameras would take them.

A dark reddish retina inside a round field of view, vessels that branch out of the disc, a bright
disc with a brighter cup inside, and lesions that are bright or dark but belong to neither. Labels:
0 background, 1 disc, 2 cup (inside the disc). It is a test object, not a model of disease.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from fedssl.data.synthetic.texture import Array, Rng, grid, logistic, smooth_noise

__all__ = ["CLASSES", "LOOKS", "FundusLook", "draw_fundus"]

CLASSES = ("background", "disc", "cup")


@dataclass(frozen=True, slots=True)
class FundusLook:
    """How one camera, and the people in front of it, differ from others.

    Args:
        gains: factor of red, green and blue.
        zoom: size of the disc relative to the first site.
        disc: contrast of the disc's rim to the retina, in the first site's.
        cup: contrast of the cup to the rim, in the first site's.
        edge: width of the disc's border in disc radii.
        gamma: exponent of the sensor.
        haze: share of scattered light (0..1), as from a cataract.
        blur: Gaussian sigma in pixels at 96 pixels.
        noise: standard deviation of sensor noise, of 255.
        vignette: darkening towards the border.
        gradient: strength of one-sided illumination.
        field: radius of the round field of view; 1 touches the border of the picture.
        choroid: strength of the striped texture of a lightly pigmented retina.
        lesions: expected number of lesions.
        crescent: strength of the bright atrophy beside the disc.
        reflex: strength of bright reflections along the vessels and around the disc.
    """

    gains: tuple[float, float, float]
    zoom: float = 1.0
    disc: float = 1.0
    cup: float = 1.0
    edge: float = 0.18
    gamma: float = 1.0
    haze: float = 0.0
    blur: float = 0.5
    noise: float = 4.0
    vignette: float = 0.25
    gradient: float = 0.15
    field: float = 1.08
    choroid: float = 0.1
    lesions: float = 2.0
    crescent: float = 0.15
    reflex: float = 0.0


LOOKS = (
    FundusLook(gains=(1.0, 1.0, 1.0)),
    FundusLook(gains=(1.1, 0.85, 0.7), zoom=1.1, gamma=0.85, noise=6.0, field=1.2, lesions=3.0),
    FundusLook(
        gains=(0.8, 1.0, 1.1),
        zoom=1.45,
        disc=0.6,
        cup=0.55,
        edge=0.35,
        haze=0.35,
        blur=1.2,
        noise=5.0,
        gradient=0.5,
        choroid=0.25,
    ),
    FundusLook(
        gains=(1.15, 0.7, 0.5),
        zoom=0.72,
        disc=0.65,
        cup=0.6,
        gamma=1.3,
        noise=9.0,
        vignette=0.6,
        field=0.9,
        choroid=0.8,
        lesions=4.0,
        crescent=0.5,
    ),
    FundusLook(
        gains=(0.7, 1.1, 0.8),
        zoom=1.15,
        disc=0.65,
        cup=0.7,
        gamma=0.75,
        blur=0.8,
        noise=7.0,
        field=1.0,
        choroid=0.3,
        lesions=8.0,
        crescent=0.3,
        reflex=0.8,
    ),
)
"""The looks of `clinic_a` ... `clinic_e`."""

_RETINA = np.array([158.0, 72.0, 38.0], np.float32)
_RIM = np.array([62.0, 72.0, 50.0], np.float32)
_CUP = np.array([22.0, 52.0, 62.0], np.float32)
_HAZE = np.array([135.0, 125.0, 115.0], np.float32)
_VESSEL = np.array([-62.0, -42.0, -18.0], np.float32)


def draw_fundus(
    anatomy: Rng, exposure: Rng, size: int, look: FundusLook
) -> tuple[Array, np.ndarray]:
    """Draw one picture and its label.

    Args:
        anatomy: what two pictures of one subject share.
        exposure: what differs between them: position, light, noise.
        size: pixels per side.
        look: of the site.

    Returns:
        Image [3, size, size] float32 of whole numbers 0..255, and label [size, size] uint8.
    """
    y, x = grid((size, size))
    centre = exposure.uniform(-0.28, 0.28, 2)
    dy, dx = y - np.float32(centre[0]), x - np.float32(centre[1])
    disc, cup = _disc_and_cup(anatomy, dy, dx, look)
    retina = _retina(anatomy, exposure, size, look)
    vessels = _vessels(anatomy, centre, size, look)
    image = retina[None] * _RETINA[:, None, None]
    image += _patches(anatomy, disc, dy, dx, look)
    rim = look.disc * logistic(1 - disc, look.edge)
    image += rim * _RIM[:, None, None]
    image += look.disc * look.cup * logistic(1 - cup, 2 * look.edge) * _CUP[:, None, None]
    image += vessels * _VESSEL[:, None, None]
    if look.reflex > 0:
        image += look.reflex * _reflections(exposure, vessels, disc)
    label = (disc < 1).astype(np.uint8) + ((cup < 1) & (disc < 1)).astype(np.uint8)
    return _camera(image, exposure, size, look), label


def _disc_and_cup(rng: Rng, dy: Array, dx: Array, look: FundusLook) -> tuple[Array, Array]:
    """Return elliptical distances to the disc's and the cup's centre; 1 is the border."""
    radius = rng.uniform(0.26, 0.34) * look.zoom
    aspect, ratio = rng.uniform(0.86, 1.0), rng.uniform(0.4, 0.72)
    shift = rng.uniform(-0.5, 0.5, 2) * (1 - ratio) * radius
    angle = np.arctan2(dy, dx)
    (oval, corners), turn = rng.uniform(-0.035, 0.035, 2), rng.uniform(0, 2 * np.pi, 2)
    wobble = 1 + oval * np.cos(2 * angle + turn[0]) + corners * np.cos(3 * angle + turn[1])
    disc = np.hypot(dy, dx / aspect) / (radius * wobble)
    upright = ratio * rng.uniform(0.9, 1.1)
    cup = np.hypot((dy - shift[0]) / upright, (dx - shift[1]) / (aspect * ratio)) / radius
    return disc.astype(np.float32), cup.astype(np.float32)


def _retina(anatomy: Rng, exposure: Rng, size: int, look: FundusLook) -> Array:
    """Return brightness of the retina: clouds, and stripes where the choroid shines through."""
    shape = (size, size)
    clouds = smooth_noise(anatomy, shape, (7, 7)) + 0.6 * smooth_noise(exposure, shape, (24, 24))
    y, x = grid(shape)
    phase = 2.5 * smooth_noise(anatomy, shape, (9, 9))
    tilt, pitch = anatomy.uniform(0, np.pi), anatomy.uniform(20, 30)
    stripes = np.sin(pitch * (np.cos(tilt) * y + np.sin(tilt) * x) + phase)
    visible = logistic(smooth_noise(anatomy, shape, (6, 6)) + 0.3, 1.5)
    return np.asarray(1 + 0.07 * clouds + 0.3 * look.choroid * visible * stripes, np.float32)


def _vessels(rng: Rng, centre: np.ndarray, size: int, look: FundusLook) -> Array:
    """Return vessel density 0..1: arcades that leave the disc up and down, with branches."""
    points, widths = [], []
    for start in (0.35, 0.65, -0.35, -0.65):
        heading = np.pi * (start + rng.uniform(-0.1, 0.1))
        trunk = _curve(rng, centre, heading, length=1.8)
        points.append(trunk)
        widths.append(1.0)
        for _ in range(2):
            at = int(rng.integers(5, 30))
            side = heading + rng.choice([-1.0, 1.0]) * rng.uniform(0.5, 1.0)
            points.append(_curve(rng, trunk[at], side, length=1.0))
            widths.append(0.5)
    density = np.zeros((size, size), np.float32)
    place = np.concatenate(points)
    weight = np.repeat(np.array(widths, np.float32), 60)
    pixel = np.floor((place + 1) * size / 2).astype(int)
    inside = ((pixel >= 0) & (pixel < size)).all(1)
    np.add.at(density, (pixel[inside, 0], pixel[inside, 1]), weight[inside])
    sigma = 0.009 * size * np.sqrt(look.zoom)
    return np.asarray(1 - np.exp(-1.6 * ndimage.gaussian_filter(density, sigma)), np.float32)


def _curve(rng: Rng, start: np.ndarray, heading: float, length: float) -> np.ndarray:
    """Return 60 points (y, x) of a path that bends slowly."""
    bend = rng.uniform(-0.9, 0.9) + np.cumsum(rng.normal(0, 0.35, 60))
    angle = heading + np.cumsum(bend) / 60
    step = length / 60 * np.stack([np.sin(angle), np.cos(angle)], 1)
    return np.asarray(start + np.cumsum(step, 0))


def _patches(rng: Rng, disc: Array, dy: Array, dx: Array, look: FundusLook) -> Array:
    """Return lesions outside the disc, bright or dark, and the crescent of atrophy beside it."""
    total = np.zeros((3, *dy.shape), np.float32)
    outside = logistic(disc - 1.2, 0.2)
    for _ in range(int(rng.poisson(look.lesions))):
        y, x = rng.uniform(-1, 1, 2)
        height, width = rng.uniform(0.03, 0.13, 2)
        blob = np.exp(-(((dy - y) / height) ** 2 + ((dx - x) / width) ** 2)) * outside
        bright = rng.uniform() < 0.6
        colour = (70.0, 75.0, 30.0) if bright else (-70.0, -45.0, -20.0)
        total += rng.uniform(0.5, 1.0) * blob * np.array(colour, np.float32)[:, None, None]
    angle = rng.uniform(0, 2 * np.pi)
    facing = np.clip(np.cos(np.arctan2(dy, dx) - angle), 0, None)
    ring = np.exp(-(((disc - 1.2) / 0.2) ** 2)) * facing * look.crescent
    return np.asarray(total + ring * np.array((60.0, 55.0, 25.0))[:, None, None], np.float32)


def _reflections(rng: Rng, vessels: Array, disc: Array) -> Array:
    """Return white light reflected along the vessels and in a broken ring outside the disc."""
    cloud = logistic(smooth_noise(rng, vessels.shape, (9, 9)), 1.0)
    sheen = ndimage.gaussian_filter(vessels, 2.0)
    ring = np.exp(-(((disc - rng.uniform(1.4, 1.8)) / 0.15) ** 2))
    return np.asarray(cloud * (90 * sheen + 70 * ring), np.float32)


def _camera(image: Array, rng: Rng, size: int, look: FundusLook) -> Array:
    """Return what the sensor of a site makes of the scene: whole numbers 0..255."""
    y, x = grid((size, size))
    jitter = 1 + rng.uniform(-0.06, 0.06, 3)
    gains = (np.array(look.gains) * jitter).astype(np.float32)[:, None, None]
    light = _light(rng, y, x, look)
    image = np.clip(image * light * gains, 0, 255)
    veil = np.float32(look.haze * rng.uniform(0.7, 1.2))
    image = (1 - veil) * image + veil * _HAZE[:, None, None]
    sigma = look.blur * size / 96
    image = ndimage.gaussian_filter(image, (0, sigma, sigma))
    image = np.asarray(255 * np.clip(image / 255, 0, 1) ** look.gamma, np.float32)
    image = image * logistic(np.float32(look.field) - np.hypot(y, x), 0.04)
    image = image + look.noise * rng.standard_normal(image.shape, dtype=np.float32)
    return np.asarray(np.clip(np.rint(image), 0, 255), np.float32)


def _light(rng: Rng, y: Array, x: Array, look: FundusLook) -> Array:
    """Return the illumination: brighter on one random side, darker towards the border."""
    angle = rng.uniform(0, 2 * np.pi)
    side = look.gradient * (np.cos(angle) * y + np.sin(angle) * x)
    return np.asarray(1 + side - look.vignette * (y**2 + x**2) / 2, np.float32)
