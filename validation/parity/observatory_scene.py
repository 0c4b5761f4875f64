"""The detector and the exposure of `observatory_inputs.py`: arrays only, NumPy only.

Every condition that the observatory's steps tell apart is put on `EACH` pixels of its own
(`PLACES`), so that what differs in a comparison can be counted by cause.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

BORDER, CHANNEL, PADDED = 4, 128, 140
READS = (
    (1,), (2, 3), (4, 5, 6), (7,), (8, 15), (16, 23), (25, 32), (33, 36),
)  # fmt: skip
PATTERN = [[r[0]] if len(r) == 1 else list(range(r[0], r[-1] + 1)) for r in READS]
"""8 resultants, 35 reads, two of them alone; between two resultants one read is left out."""
FRAME_TIME = 3.16247
CLOCK = 4.915263e-6
"""Seconds for each pixel; a row takes 142 of them."""
SCALE = 65536.0
C = 11
"""Coefficients of both polynomials."""
EACH = 40
"""Pixels of each condition."""
PLACES = (
    "dead", "nan threshold", "no threshold", "low threshold", "nan coefficient", "zero linear term",
    "no linearity", "nan inverse", "zero inverse", "inverse flag", "huge polynomial", "nan gain",
    "zero gain", "negative gain", "nan dark", "dark flag", "nan flat", "zero flat", "negative flat",
    "no flat", "flat flag", "bad reference", "dropout", "not used", "every second", "two left",
    "three left", "not positive", "zero", "isolated",
)  # fmt: skip

DNU, SAT, DROPOUT, DEAD = 1, 2, 8, 1 << 10
BAD_REF, NO_FLAT, NO_LIN, NO_SAT, REFERENCE = 1 << 17, 1 << 18, 1 << 20, 1 << 21, 1 << 31


@dataclass
class Scene:
    """A detector of `side` pixels and all that its references say, drawn from `seed`."""

    side: int
    seed: int
    places: dict[str, tuple[np.ndarray, np.ndarray]] = field(init=False)

    def __post_init__(self) -> None:
        rng = self.rng(0)
        n = self.side - 2 * BORDER
        chosen = rng.choice(n * n, size=EACH * len(PLACES), replace=False)
        y, x = np.divmod(chosen, n)
        self.places = {
            name: (y[i :: len(PLACES)] + BORDER, x[i :: len(PLACES)] + BORDER)
            for i, name in enumerate(PLACES)
        }

    def rng(self, stream: int) -> np.random.Generator:
        return np.random.default_rng([self.seed, stream])

    def normal(self, stream: int, *shape: int) -> np.ndarray:
        return self.rng(stream).standard_normal(shape or (self.side,) * 2, np.float32)

    @cached_property
    def pedestal(self) -> np.ndarray:
        """Raw level without light, DN."""
        offsets = self.rng(1).normal(0, 300, self.side // CHANNEL).astype(np.float32)
        smooth = np.repeat(offsets, CHANNEL) + np.float32(5500)
        tilt = np.linspace(-200, 200, self.side, dtype=np.float32)
        return smooth + tilt[:, None] + 60 * self.normal(2)

    @cached_property
    def bend(self) -> np.ndarray:
        """Strength of the non-linearity of each pixel."""
        wave = np.cos(np.linspace(0, 7, self.side, dtype=np.float32))
        level = 0.04 + 0.004 * wave[:, None] * wave + 0.002 * self.normal(3)
        return np.clip(level, 0.025, 0.055).astype(np.float32)

    @cached_property
    def threshold(self) -> np.ndarray:
        """Raw signal at saturation, DN."""
        return (np.float32(54000) + 900 * self.normal(4)).astype(np.float32)

    @cached_property
    def dark(self) -> np.ndarray:
        hot = self.rng(6).random((self.side,) * 2, np.float32)
        dark = 0.005 + 0.002 * self.normal(5)
        dark[hot > 0.999] = 5 * hot[hot > 0.999] ** 2000
        return dark.astype(np.float32)

    @cached_property
    def gain(self) -> np.ndarray:
        return (1.8 + 0.03 * self.normal(7)).astype(np.float32)

    @cached_property
    def noise(self) -> np.ndarray:
        return (6.0 + 0.5 * np.abs(self.normal(8))).astype(np.float32)

    @cached_property
    def flat(self) -> np.ndarray:
        """Relative response, active pixels only."""
        n = self.side - 2 * BORDER
        bowl = np.linspace(-1, 1, n, dtype=np.float32) ** 2
        return (1.03 - 0.05 * (bowl[:, None] + bowl) + 0.01 * self.normal(9, n, n)).astype("f4")


def _low(v: np.ndarray, powers: range) -> np.ndarray:
    return np.stack([v**k for k in powers], -1)


BENT = np.array([0, 0, 0.7, 0.4, -0.3, 0.2, -0.1, 0.06, -0.03, 0.02])
"""What `bend` multiplies, for powers 0..9 of raw / SCALE."""
HIGH = np.array([0, 0, 0, 0, 0, 0, 0, 0.015, 0.02, -0.066, 1 / 32])
"""The same for all pixels. The highest power is as small as float32 can hold in these units."""


def forward(bend: np.ndarray) -> np.ndarray:
    """Coefficients from raw to linear signal, DN^(1 - k), (C, ...) float32."""
    a = np.zeros((C, *bend.shape))
    a += HIGH.reshape(-1, *[1] * bend.ndim)
    a[:-1] += BENT.reshape(-1, *[1] * bend.ndim) * bend
    a[1] += 1
    return _in_dn(a)


def inverse(bend: np.ndarray) -> np.ndarray:
    """Coefficients from linear to raw signal, which are polynomials of `bend` themselves."""
    a = np.empty((C, *bend.shape))
    scaled = (bend - 0.04) / 0.02
    for k, row in enumerate(_inverse_table()):
        a[k] = row[-1]
        for c in row[-2::-1]:
            a[k] = a[k] * scaled + c
    return _in_dn(a)


_TABLE: list[np.ndarray] = []


def _inverse_table() -> np.ndarray:
    if not _TABLE:
        raw = np.linspace(0, 1.0, 400)
        bends = np.linspace(0.02, 0.06, 17)
        found = []
        for bend in bends:
            p = HIGH.copy()
            p[:-1] += BENT * bend
            p[1] += 1
            linear = _low(raw, range(C)) @ p
            fixed = -(linear**10) / 32
            low = np.linalg.lstsq(_low(linear, range(1, C - 1)), raw - fixed, rcond=None)[0]
            found.append([0.0, *low, -1 / 32])
        powers = _low((bends - 0.04) / 0.02, range(6))
        _TABLE.append(np.linalg.lstsq(powers, np.array(found), rcond=None)[0].T)
    return _TABLE[0]


def _in_dn(a: np.ndarray) -> np.ndarray:
    for k in range(C):
        a[k] *= SCALE ** (1 - k)
    return a.astype(np.float32)


def polynomial(c: np.ndarray, z: np.ndarray) -> np.ndarray:
    """Horner's scheme in float64, because the highest powers leave the range of float32."""
    value = c[-1].astype(np.float64)
    for row in c[-2::-1]:
        value = value * z + row
    return value


def nonlinearity(channel: int) -> np.ndarray:
    """Table of the converter of a channel (counted from 0): what to add to each raw value, DN."""
    z = np.arange(65536.0)
    saw = (z / 4096 + 0.1 * channel) % 1 - 0.5
    return 2.0 * np.sin(z / 5000 + 0.7 * channel) + 1.2 * saw + 1e-5 * (z - 32768)


def weights(side: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Weights of left border, right border and reference output (channels, frequencies)."""
    n, length = side // CHANNEL, side * PADDED // 2 + 1
    f = np.linspace(0, 1, length)
    rng = np.random.default_rng([seed, 20])
    found = []
    for size, width in ((0.2, 0.05), (0.2, 0.06), (0.55, 0.2)):
        strength = size * (1 + 0.1 * rng.standard_normal((n, 1)))
        wide = width * (1 + 0.1 * rng.standard_normal((n, 1)))
        phase = 0.5 * rng.standard_normal((n, 1)) * np.sin(np.pi * f)
        found.append(strength * np.exp(-f / wide + 2j * np.pi * phase))
    return found[0], found[1], found[2]
