"""One exposure of a `Scene`: what its Level 1 file holds."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from observatory_scene import (
    BORDER,
    CHANNEL,
    CLOCK,
    DNU,
    DROPOUT,
    FRAME_TIME,
    PADDED,
    PATTERN,
    Scene,
    forward,
    inverse,
    nonlinearity,
    polynomial,
)

SKY = 0.3
"""DN/s"""
OFFSET = 6400
"""Encoding offset, DN."""
AMP33 = 21000
DECAY, DECAY_TIME = 1.5, 25.0
"""DN, s"""
TRANSIENT = (45.0, -6.0, 0.2, 0.7)
"""a, b (DN), ta, tb (s) of the transient in resultant 0 of WFI18."""
STARS, HITS = 4000, 22000
"""In a full frame. Half of the stars saturate, as many in each resultant."""
FULL = 65000.0
"""Linear signal that no pixel exceeds, DN."""
BAND = 64
R = len(PATTERN)
TIMES = np.array([np.mean(reads) * FRAME_TIME for reads in PATTERN])


@dataclass
class Exposed:
    """Arrays of the Level 1 file.

    Attributes
    ----------
    data : ndarray (R, N, N) of uint16
    amp33 : ndarray (R, N, 128) of uint16
    reference_read, reference_amp33 : ndarray (N, N), (N, 128) of uint16
    resultantdq : ndarray (R, N, N) of uint8
    """

    data: np.ndarray
    amp33: np.ndarray
    reference_read: np.ndarray
    reference_amp33: np.ndarray
    resultantdq: np.ndarray


def sky_image(scene: Scene) -> np.ndarray:
    """Sky and stars, DN/s (N, N); nothing on the reference border."""
    rng, n = scene.rng(30), scene.side
    stars = max(int(STARS * (n / 4096) ** 2), 60)
    peak = 10 ** rng.uniform(0, 2.5, stars)
    saturating = np.arange(0, stars, 2)
    when = TIMES[(saturating // 2) % R] * rng.uniform(0.8, 1.05, len(saturating))
    peak[saturating] = 52000 / when
    y, x = rng.uniform(BORDER + 8, n - BORDER - 9, (2, stars))
    image = np.full((n, n), SKY, np.float32)
    stamp = np.arange(-7, 8)
    yy, xx = np.rint(y).astype(int)[:, None] + stamp, np.rint(x).astype(int)[:, None] + stamp
    along = [
        np.exp(-0.5 * ((p - c[:, None]) / 1.3) ** 2) + 2e-3 / (1 + ((p - c[:, None]) / 3) ** 2)
        for p, c in ((yy, y), (xx, x))
    ]
    light = peak[:, None, None] * along[0][:, :, None] * along[1][:, None, :]
    np.add.at(image, (yy[:, :, None], xx[:, None, :]), light.astype(np.float32))
    image[BORDER:-BORDER, BORDER:-BORDER] *= scene.flat
    return _without_border(image)


def _without_border(image: np.ndarray) -> np.ndarray:
    image[:BORDER] = image[-BORDER:] = 0
    image[:, :BORDER] = image[:, -BORDER:] = 0
    return image


def hits(scene: Scene) -> np.ndarray:
    """Charge of cosmic rays that each resultant sees, DN (R, N, N)."""
    rng, n = scene.rng(31), scene.side
    number = max(int(HITS * (n / 4096) ** 2), 200)
    y, x = rng.integers(BORDER, n - BORDER, (2, number))
    charge = 10 ** rng.uniform(1.5, 4.5, number)
    when = rng.uniform(0, PATTERN[-1][-1], number)
    seen = np.zeros((R, n, n), np.float32)
    for j, reads in enumerate(PATTERN):
        share = np.mean(np.array(reads)[:, None] > when, axis=0)
        np.add.at(seen[j], (y, x), (charge * share).astype(np.float32))
    return seen


def read_times(n: int) -> np.ndarray:
    """Seconds from the start of a frame to each pixel, for WFI18 (rows reversed or not: it only
    has to be close)."""
    column = np.arange(n) % CHANNEL
    odd = (np.arange(n) // CHANNEL) % 2 == 1
    column = np.where(odd, CHANNEL - 1 - column, column)
    return CLOCK * (142.0 * np.arange(n)[:, None] + column)


def pink(rng: np.random.Generator, length: int) -> np.ndarray:
    """1/f noise with a standard deviation of about 1."""
    f = np.arange(length // 2 + 1, dtype=np.float32)
    f[0] = np.inf
    wave = rng.standard_normal((2, f.size), np.float32) / np.sqrt(f)
    found = np.fft.irfft(wave[0] + 1j * wave[1], length)
    return (found / found.std()).astype(np.float32)


def banding(scene: Scene, j: int) -> tuple[np.ndarray, np.ndarray]:
    """1/f noise and drift of a resultant: of the channels (N, N) and of the reference output
    (N, 128), DN."""
    rng, n = scene.rng(100 + j), scene.side
    length = n * PADDED
    fall = 1 / np.sqrt(len(PATTERN[j]))
    common = 4 * fall * pink(rng, length)
    time = np.linspace(-0.5, 0.5, length, dtype=np.float32)
    frame = np.empty((n, n), np.float32)
    for c in range(n // CHANNEL):
        own = common + 1.5 * fall * pink(rng, length) + rng.normal(0, 4) + rng.normal(0, 6) * time
        block = own.reshape(n, PADDED)[:, :CHANNEL]
        frame[:, c * CHANNEL : (c + 1) * CHANNEL] = block[:, ::-1] if c % 2 else block
    amp33 = common + fall * pink(rng, length) + rng.normal(0, 5) + rng.normal(0, 9) * time
    block = amp33.reshape(n, PADDED)[:, :CHANNEL]
    white = rng.standard_normal(block.shape, np.float32) * np.float32(5 * fall)
    return frame, block + white


def expose(scene: Scene, wfi18: bool) -> Exposed:
    """Read the detector out; all conditions that stand in the exposure are put in."""
    n = scene.side
    data = np.empty((R, n, n), np.uint16)
    amp33 = np.empty((R, n, CHANNEL), np.uint16)
    reference = np.clip(scene.pedestal - 40 + 6 * scene.normal(32), 0, 65535).astype(np.uint16)
    level = AMP33 + 30 * scene.normal(33, n, CHANNEL)
    reference_amp33 = (level - 50).astype(np.uint16)
    raw = _raw(scene)
    for j in range(R):
        noise, output = banding(scene, j)
        noise += scene.normal(50 + j) * scene.noise / np.float32(np.sqrt(len(PATTERN[j])))
        raw[j] += noise
        if wfi18 and j == 0:
            raw[j, BORDER:-BORDER, BORDER:-BORDER] += _transient(n)
        raw[j, *scene.places["zero"]] = 0 if j == 2 else raw[j, *scene.places["zero"]]
        raw[j, *scene.places["not positive"]] -= 8000 if j in (1, 5) else 0
        stored = np.rint(raw[j]) - reference + np.float32(OFFSET)
        np.clip(stored, 0, 65535, out=stored)
        data[j] = stored
        amp33[j] = np.rint(level + output).astype(np.int32) - reference_amp33 + OFFSET
    return Exposed(data, amp33, reference, reference_amp33, _flags(scene))


def _transient(n: int) -> np.ndarray:
    a, b, ta, tb = TRANSIENT
    t = read_times(n)[BORDER:-BORDER, BORDER:-BORDER]
    return a * np.exp(-t / ta) + b * np.exp(-t / tb)


def _raw(scene: Scene) -> np.ndarray:
    """Raw signal of all resultants without read noise, DN (R, N, N) of float32."""
    n = scene.side
    image, raw = sky_image(scene), hits(scene)
    rng = scene.rng(34)
    decay_times = read_times(n)
    for y in range(0, n, BAND):
        rows = slice(y, y + BAND)
        flux = image[rows] + _without_top(scene, rows)
        q = inverse(scene.bend[rows])
        empty = polynomial(forward(scene.bend[rows]), scene.pedestal[rows])
        electrons, before = np.zeros(flux.shape), 0.0
        bright = flux > 20
        deviation = np.sqrt(np.maximum(flux, 0) / scene.gain[rows])
        for j, reads in enumerate(PATTERN):
            step = np.sqrt(TIMES[j] - before) * deviation
            before = TIMES[j]
            electrons += step * rng.standard_normal(flux.shape, np.float32)
            hit = raw[j, rows] + electrons
            signal = np.clip(empty + flux * TIMES[j] + hit, 0, FULL)
            made = polynomial(q, signal)
            if bright.any():
                made[bright] = np.mean(
                    [
                        polynomial(
                            q[:, bright],
                            np.clip((empty + flux * r * FRAME_TIME + hit)[bright], 0, FULL),
                        )
                        for r in reads
                    ],
                    axis=0,
                )
            decay = np.mean([np.exp(-(r - 1.5) * FRAME_TIME / DECAY_TIME) for r in reads])
            made += _inside(DECAY * decay * np.exp(-decay_times[rows] / DECAY_TIME), y, n)
            raw[j, rows] = made
    for c in range(n // CHANNEL):  # the converter's error, the other way round
        table = nonlinearity(c).astype(np.float32)
        block = raw[:, :, c * CHANNEL : (c + 1) * CHANNEL]
        block -= table[np.clip(np.rint(block), 0, 65535).astype(np.uint16)]
    return raw


def _without_top(scene: Scene, rows: slice) -> np.ndarray:
    return _inside(scene.dark[rows], rows.start, scene.side)


def _inside(values: np.ndarray, y: int, n: int) -> np.ndarray:
    """`values` of rows from y on, 0 on the reference border."""
    values = values.copy()
    values[:, :BORDER] = values[:, -BORDER:] = 0
    row = np.arange(y, y + len(values))
    values[(row < BORDER) | (row >= n - BORDER)] = 0
    return values


def _flags(scene: Scene) -> np.ndarray:
    """Flags that come with the exposure: drop-outs and resultants that must not be used."""
    flags = np.zeros((R, scene.side, scene.side), np.uint8)
    rng = scene.rng(35)
    y, x = scene.places["dropout"]
    flags[rng.integers(0, R, y.size), y, x] |= DROPOUT
    y, x = scene.places["not used"]
    flags[rng.integers(0, R, y.size), y, x] |= DNU
    for name, bad in (
        ("every second", (0, 2, 4, 6)),
        ("two left", (0, 1, 5, 6, 7)),
        ("three left", (0, 1, 6, 7)),
        ("isolated", (0, 1, 2, 3, 4, 6)),
    ):
        y, x = scene.places[name]
        for j in bad:
            flags[j, y, x] |= DNU
    return flags
