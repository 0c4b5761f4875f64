"""How a command of the layer language takes part in a layer: three kinds of drawing.

Which kind a command has is the `acts_on` of its declaration in
`roman_dask_l2.config.noise_commands`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...core.detector import Window
from ...core.exposure import Exposure
from ...io.arrays import Placed

SIGMA = 1.34896
"""Interquartile range of a Gaussian, in standard deviations."""

Quartiles = tuple[float, float, float]
Limits = tuple[np.float32, np.float32]


@dataclass(frozen=True)
class FixedWeights:
    """How the ramps of a block were fitted: with one of a few sets of weights.

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
    """How the ramps of a block were fitted: with weights of its own for every pixel.

    Attributes
    ----------
    coefficients : ndarray (R - 1, y, x)
        Of the differences of resultants in the rate, 1/s; 0 where the pixel could not be fitted.
    """

    coefficients: np.ndarray


@dataclass(frozen=True)
class BlockLight:
    """The light on a block of the detector, and how the ramps of its pixels were fitted.

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


@dataclass(frozen=True)
class DetectorBlock:
    """A block of 128 x 128 pixels, the same whatever the tiles.

    Attributes
    ----------
    window : Window
        In the full frame.
    number : int
        Names its random streams: blocks are counted row by row.
    exposure : Exposure
    light : BlockLight or None
        None unless a command of the layer needs it.
    backgrounds : mapping of int to ndarray or None
        Order -> coefficients of the image's background, None if it was not found. The orders that
        commands of the layer need.
    """

    window: Window
    number: int
    exposure: Exposure
    light: BlockLight | None
    backgrounds: Mapping[int, np.ndarray | None]


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
        ``draw(argument, streams, block)``: an array (y, x) of float32, DN/s, and which of its
        pixels have no draw and are 0, an array (y, x) of bool; None if all have one.
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
