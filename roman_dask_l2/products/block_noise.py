"""Noise that is drawn on the L2 image, in blocks of 128 x 128 pixels of the detector."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from ..config.noise_commands.command import ActsOn
from ..config.noise_labels import Layer
from ..core.detector import CHANNEL_WIDTH, Window
from ..core.exposure import Exposure
from ..core.step import Tile
from ..io.arrays import Placed
from ..io.spill import Spilled
from ..noise.own_weights import own_weights
from ..noise.streams import Streams
from ..steps.ramp_params import RampFitParams
from .noise_commands.drawing import BlockNoise, DetectorBlocks, FixedWeights, Light, OwnWeights
from .noise_commands.registry import DRAWINGS


@dataclass(frozen=True)
class FixedFit:
    """How each ramp was fitted with weights that depend on where it saturates.

    Attributes
    ----------
    endslice : Placed
        Last resultant before saturation, negative if there is no saturation.
    excluded : Placed or None
        Resultants that fits left out.
    weights : ndarray (R + 1, R)
        Of ramps that saturate in each resultant, 1/s.
    params : RampFitParams
    """

    endslice: Placed
    excluded: Placed | None
    weights: np.ndarray
    params: RampFitParams

    def read(self, blocks: Window, exposure: Exposure) -> FixedWeights:
        """The weights on whole blocks."""
        e, full = self.endslice.read(blocks).astype(np.int64), self.weights
        excluded = None if self.excluded is None else self.excluded.read(blocks)
        ends = np.where(e >= 0, e + 1, exposure.n_resultants)
        rows, weights = own_weights(ends, excluded, full, exposure=exposure, params=self.params)
        return FixedWeights(ends, full, rows, weights)


@dataclass(frozen=True)
class LikelihoodFit:
    """How each ramp was fitted by maximum likelihood.

    Attributes
    ----------
    noise_ratio : Placed
        Ratio of Poisson to read noise that its weights were made for, 1/s.
    unused : Placed or None
        Differences of resultants that fits did not use.
    """

    noise_ratio: Placed
    unused: Placed | None

    def read(self, blocks: Window, exposure: Exposure) -> OwnWeights:
        """The weights on whole blocks."""
        unused = None if self.unused is None else self.unused.read(blocks)
        return OwnWeights(self.noise_ratio.read(blocks), unused, exposure)


@dataclass(frozen=True)
class PhotonNoiseInputs:
    """What the noise of the light is drawn from: the L2 image, and how each ramp was fitted.

    Attributes
    ----------
    level : Placed
        Rate before the sky was subtracted, DN/s.
    gain : Placed
        e/DN.
    fit : FixedFit or LikelihoodFit
    exposure : Exposure
    """

    level: Placed
    gain: Any
    fit: FixedFit | LikelihoodFit
    exposure: Exposure

    def read(self, blocks: Window) -> Light:
        """The light on whole blocks."""
        level, gain = self.level.read(blocks), self.gain.read(blocks)
        return Light(level, gain, self.fit.read(blocks, self.exposure))


class WithoutDraw(NamedTuple):
    """Active pixels of a row of blocks for which there is no draw: all of them, and those that the
    mask of the L2 image leaves in use."""

    active: int
    unmasked: int


def rows_of_blocks(side: int) -> list[Window]:
    """Windows of `write_block_noise`: whole blocks, each in one of them, whatever the tiles."""
    return [Window(y, y + CHANNEL_WIDTH, 0, side) for y in range(0, side, CHANNEL_WIDTH)]


def write_block_noise(
    layer: Layer,
    streams: Streams,
    window: Window,
    exposure: Exposure,
    light: PhotonNoiseInputs | None,
    mask: Placed,
    target: Spilled,
    ready: Any,
) -> WithoutDraw | None:
    """Draw a layer's block noise on a part of the detector and write it to the store.

    Parameters
    ----------
    layer : Layer
    streams : Streams
    window : Window
        One of `rows_of_blocks`.
    exposure : Exposure
    light : PhotonNoiseInputs or None
        None unless a command of the layer needs it.
    mask : Placed
        Of the L2 image; read only where pixels have no draw.
    target : Spilled
    ready : list
        If the layer needs backgrounds, the first is the list of their coefficients, in the order
        of ``layer.backgrounds``.

    Returns
    -------
    WithoutDraw or None
        None if a background that the layer needs was not found.
    """
    orders = layer.backgrounds
    backgrounds = dict(zip(orders, ready[0], strict=True)) if orders else {}
    blocks = DetectorBlocks(
        window, exposure, None if light is None else light.read(window), backgrounds
    )
    drawn, missing = np.zeros(window.shape, np.float32), np.zeros(window.shape, np.bool_)
    for command, argument in layer.acting_on(ActsOn.BLOCKS):
        drawing = DRAWINGS[command.letter]
        assert isinstance(drawing, BlockNoise)
        values, without = drawing.draw(argument, streams, blocks)
        drawn += values
        if without is not None:
            missing |= without
    inner = Tile(window, exposure.side).active
    out = np.zeros_like(drawn)  # reference pixels have no noise
    out[inner] = drawn[inner]
    target.put(out, window)
    if any(coefs is None for coefs in backgrounds.values()):
        return None
    if not missing[inner].any():
        return WithoutDraw(0, 0)
    there = np.zeros_like(missing)
    there[inner] = missing[inner]
    good = there & ~mask.read(window)
    return WithoutDraw(int(np.count_nonzero(there)), int(np.count_nonzero(good)))
