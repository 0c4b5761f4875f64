"""How a command of the layer language takes part in a layer: three kinds of drawing.

Which kind a command has is the `acts_on` of its declaration in
`roman_dask_l2.config.noise_commands`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from ...core.detector import CHANNEL_WIDTH, Window
from ...core.exposure import Exposure
from ...io.arrays import Placed
from ...noise.difference_weights import difference_coefficients

SIGMA = 1.34896
"""Interquartile range of a Gaussian, in standard deviations."""

Quartiles = tuple[float, float, float]
Limits = tuple[np.float32, np.float32]


@dataclass(frozen=True)
class FixedWeights:
    """How ramps were fitted: with one of a few sets of weights.

    Attributes
    ----------
    ends : ndarray (y, x) of int64
        Resultants before saturation, R where there is none.
    full_weights : ndarray (R + 1, R)
        Weights of ramps that saturate in each resultant, 1/s.
    rows : ndarray (y, x) of int64
        Each pixel's row in `weights`.
    weights : ndarray (rows, R)
        `full_weights`, and below them those of ramps without excluded resultants, 1/s.
    """

    ends: np.ndarray
    full_weights: np.ndarray
    rows: np.ndarray
    weights: np.ndarray


@dataclass(frozen=True)
class OwnWeights:
    """How ramps were fitted: with weights of its own for every pixel.

    Attributes
    ----------
    noise_ratio : ndarray (y, x) of float32
        Ratio of Poisson to read noise that the weights were made for, 1/s.
    unused : ndarray (ceil((R - 1) / 8), y, x) of uint8 or None
        Bits of differences of resultants that the fit did not use; None if there are none.
    exposure : Exposure
    """

    noise_ratio: np.ndarray
    unused: np.ndarray | None
    exposure: Exposure

    def coefficients(self, cut: tuple[slice, slice]) -> np.ndarray:
        """Coefficients of the differences of resultants in the rate, 1/s, on a block, as they are
        too large for several: (R - 1, y, x); 0 where the pixel could not be fitted."""
        ratio = np.ascontiguousarray(self.noise_ratio[cut])
        unused = None if self.unused is None else np.ascontiguousarray(self.unused[(..., *cut)])
        return difference_coefficients(unused, ratio, self.exposure)


@dataclass(frozen=True)
class Light:
    """The light on a part of the detector, and how the ramps of its pixels were fitted.

    Attributes
    ----------
    level : ndarray (y, x) of float32
        Rate before the sky was subtracted, DN/s.
    gain : ndarray (y, x) of float32
        e/DN.
    fit : FixedWeights or OwnWeights
    """

    level: np.ndarray
    gain: np.ndarray
    fit: FixedWeights | OwnWeights


class Block(NamedTuple):
    """A block of 128 x 128 pixels, the same whatever the tiles.

    Attributes
    ----------
    number : int
        Names its random streams: blocks are counted row by row.
    place : Window
        In arrays that cover several blocks.
    """

    number: int
    place: Window


@dataclass(frozen=True)
class DetectorBlocks:
    """Blocks of the detector side by side, on which noise is drawn.

    Attributes
    ----------
    window : Window
        In the full frame; whole blocks.
    exposure : Exposure
    light : Light or None
        None unless a command of the layer needs it.
    backgrounds : mapping of int to ndarray or None
        Order -> coefficients of the image's background, None if it was not found. The orders that
        commands of the layer need.
    """

    window: Window
    exposure: Exposure
    light: Light | None
    backgrounds: Mapping[int, np.ndarray | None]

    def __iter__(self) -> Iterator[Block]:
        n, w, (y0, y1, x0, x1) = self.exposure.side // CHANNEL_WIDTH, CHANNEL_WIDTH, self.window
        for y in range(y0, y1, w):
            for x in range(x0, x1, w):
                place = Window(y - y0, y - y0 + w, x - x0, x - x0 + w)
                yield Block(y // w * n + x // w, place)


@dataclass(frozen=True)
class QuietPixels:
    """What an image tells about a sample of pixels without sources, to expect noise from.

    Attributes
    ----------
    read_variance : ndarray (n,)
        err^2 - var_poisson, (DN/s)^2; empty if not known.
    all_light, background : ndarray (n,) or None
        Variance of the Poisson noise of all light and of the background, (DN/s)^2; None if not
        known.
    read_spectrum : callable
        ``read_spectrum(variance)``: one-sided power spectrum along rows of read noise with this
        mean variance, at each frequency of a channel but 0; None if not known.
    """

    read_variance: np.ndarray
    all_light: np.ndarray | None
    background: np.ndarray | None
    read_spectrum: Callable[[float], np.ndarray | None]


@dataclass(frozen=True)
class ExpectedNoise:
    """What a report expects of the noise of one command.

    Attributes
    ----------
    variance : ndarray (n,) or float
        Of each quiet pixel, (DN/s)^2.
    spectrum : callable or None
        ``spectrum(variance)`` as `QuietPixels.read_spectrum`; None: the noise is white.
    """

    variance: np.ndarray | float
    spectrum: Callable[[float], np.ndarray | None] | None = None


Expect = Callable[[Any, QuietPixels], ExpectedNoise | None]
"""``expect(argument, quiet)``: None if the image does not tell."""


@dataclass(frozen=True)
class RampNoise:
    """Noise that is added to a ramp, which then goes through the recipe.

    Attributes
    ----------
    write_plane : callable
        ``write_plane(argument, j, own, of_dark, streams, inputs, cube, waits)`` writes resultant
        `j` of the noisy ramp to `cube`, the stores of its pixels and of its reference output; see
        `read_noise.write_plane`.
    limits : callable
        ``limits(argument, quartiles)`` that the noise in the image is clipped to, DN/s, or None.
        ``quartiles()`` are those of its usable pixels.
    expect : callable
    """

    write_plane: Callable[..., None]
    limits: Callable[[Any, Callable[[], Quartiles]], Limits | None]
    expect: Expect


@dataclass(frozen=True)
class BlockNoise:
    """Noise that is drawn on the image, block by block.

    Attributes
    ----------
    draw : callable
        ``draw(argument, streams, blocks)`` on `DetectorBlocks`: an array (y, x) of float32, DN/s,
        and which of its pixels have no draw and are 0, an array (y, x) of bool; None if all have
        one.
    expect : callable
    """

    draw: Callable[..., tuple[np.ndarray, np.ndarray | None]]
    expect: Expect


@dataclass(frozen=True)
class SumChange:
    """A change to the sum of all noise.

    Attributes
    ----------
    find : callable
        ``find(argument, image, flags, exposure)`` looks at the sum, of which ``image(window)`` is a
        part, and returns ``change(rows, window=window)``; None if there is nothing to go by.
    """

    find: Callable[
        [Any, Callable[[Window], np.ndarray], Placed | None, Exposure],
        Callable[..., np.ndarray] | None,
    ]


Drawing = RampNoise | BlockNoise | SumChange
