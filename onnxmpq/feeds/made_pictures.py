"""Made-up pictures with the statistics of photographs that matter to activation ranges.

Shapes that cover each other ("dead leaves") have the power spectrum, the edges and the flat areas of natural scenes
(Lee, Mumford, Huang: Occlusion models for natural images, IJCV 2001; networks even learn useful features from them:
Baradad et al., Learning to see by looking at noise, NeurIPS 2021). They are textured with noise of amplitude 1/f, and
as in photographs brightness and contrast differ from picture to picture and colours vary less than brightness.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Float32 = NDArray[np.float32]
MEAN, DEVIATION = 0.449, 0.226  # of pixels from 0 to 1, as ImageNet's models are given them (over the channels)
_COLOUR_AXES = np.array([[1, 1, 1], [1, 0, -1], [0.5, -1, 0.5]], np.float32)  # brightness, red-blue, green-magenta
_COLOUR_SPREADS = np.array([1.0, 0.3, 0.15], np.float32)
_LARGEST_LEAF, _SMALLEST_LEAF = 0.5, 0.02  # radii, of the shorter side
_LEAVES = 300
_WARMTH = 0.04  # photographs have more red and less blue than grey


def made_picture(generator: np.random.Generator, height: int, width: int) -> Float32:
    """One picture, float32 [height, width, 3], RGB from 0 to 1."""
    brightness = generator.normal(0.45, 0.1)
    contrast = np.exp(generator.normal(np.log(0.23), 0.35))
    texture = generator.uniform(0.05, 0.45)
    parts = np.sqrt(1 - texture**2) * leaves(generator, height, width) + texture * _noise(generator, height, width)
    spreads = contrast * _COLOUR_SPREADS * np.exp(generator.normal(0, [0, 0.5, 0.5]))
    casts = np.array([brightness, _WARMTH, 0], np.float32)
    pixels = (parts * spreads.astype(np.float32) + casts) @ _COLOUR_AXES
    return np.asarray(np.clip(pixels, 0, 1), np.float32)


def leaves(generator: np.random.Generator, height: int, width: int) -> Float32:
    """Ellipses and boxes on top of each other, radii distributed as r^-3; float32 [height, width, 3], deviation 1.

    The three values of a leaf are independent and normal; each leaf gets lighter to one side. Focus differs.
    """
    short = min(height, width)
    low, high = max(_SMALLEST_LEAF * short, 0.7), _LARGEST_LEAF * short
    share = generator.random(_LEAVES)
    radii = 1 / np.sqrt(share * low**-2 + (1 - share) * high**-2)  # inverse of the distribution r^-3
    picture = np.broadcast_to(generator.standard_normal(3), (height, width, 3)).astype(np.float32)
    for radius in radii:
        _paint(picture, generator, float(radius))
    for _ in range(generator.integers(1, 4)):
        picture = _soften(_soften(picture, 0), 1)
    spread = picture.reshape(-1, 3).std(axis=0)
    return np.asarray((picture - picture.reshape(-1, 3).mean(axis=0)) / np.maximum(spread, 1e-6), np.float32)


def _paint(picture: Float32, generator: np.random.Generator, radius: float) -> None:
    """One leaf somewhere on the picture."""
    height, width = picture.shape[:2]
    y, x = generator.uniform(0, height), generator.uniform(0, width)
    rows = np.arange(max(int(y - 2 * radius), 0), min(int(y + 2 * radius) + 1, height), dtype=np.float32) - y
    columns = np.arange(max(int(x - 2 * radius), 0), min(int(x + 2 * radius) + 1, width), dtype=np.float32) - x
    angle, stretch = generator.uniform(0, np.pi), generator.uniform(1, 2)
    cosine, sine = np.cos(angle) / radius, np.sin(angle) / radius
    along = (rows[:, None] * sine + columns * cosine) / stretch
    across = (rows[:, None] * cosine - columns * sine) * stretch
    box = generator.random() < 0.4
    inside = np.maximum(np.abs(along), np.abs(across)) < 0.8 if box else along**2 + across**2 < 1
    shade = generator.normal(0, 0.3) * along
    colour = generator.standard_normal(3, np.float32)
    top, left = round(float(rows[0] + y)), round(float(columns[0] + x))
    region = picture[top : top + len(rows), left : left + len(columns)]
    lit = colour + np.stack([shade, 0 * shade, 0 * shade], axis=-1)
    region[inside] = lit[inside]


def _soften(picture: Float32, axis: int) -> Float32:
    """Weights 1, 2, 1 along an axis: lenses and resizing leave no edge of one pixel."""
    padded = np.pad(picture, [(int(a == axis), int(a == axis)) for a in range(3)], mode="edge")
    size = picture.shape[axis]
    before, here, after = (np.take(padded, range(i, i + size), axis) for i in range(3))
    return np.asarray((before + 2 * here + after) / 4, np.float32)


def _noise(generator: np.random.Generator, height: int, width: int) -> Float32:
    """Noise of amplitude 1/f^a with a from 0.7 to 1.3, float32 [height, width, 3], deviation 1."""
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None, :])
    frequency[0, 0] = np.inf
    white = generator.standard_normal((height, width, 3), np.float32)
    spectrum = np.fft.rfft2(white, axes=(0, 1)) / (frequency ** generator.uniform(0.7, 1.3))[..., None]
    smooth = np.fft.irfft2(spectrum, s=(height, width), axes=(0, 1))
    return np.asarray(smooth / np.maximum(smooth.reshape(-1, 3).std(axis=0), 1e-12), np.float32)
