"""Noise that is drawn on the L2 image, in blocks of 128 x 128 pixels of the detector."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ..config.noise_commands.command import ActsOn
from ..config.noise_labels import Layer
from ..core.detector import CHANNEL_WIDTH, Window
from ..core.exposure import Exposure
from ..core.step import Tile
from ..io.arrays import Placed
from ..io.spill import Spilled
from ..noise.difference_weights import difference_coefficients
from ..noise.own_weights import own_weights
from ..noise.streams import Streams
from ..steps.ramp_params import RampFitParams
from .noise_commands.drawing import BlockLight, BlockNoise, DetectorBlock, FixedWeights, OwnWeights
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

    def read(self, blocks: Window) -> dict[str, np.ndarray | None]:
        """The arrays that `block` takes, on whole blocks."""
        return {
            "endslice": self.endslice.read(blocks),
            "excluded": None if self.excluded is None else self.excluded.read(blocks),
        }

    def block(
        self, endslice: np.ndarray, excluded: np.ndarray | None, exposure: Exposure
    ) -> FixedWeights:
        """The weights of one block."""
        e, full = endslice.astype(np.int64), self.weights
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

    def read(self, blocks: Window) -> dict[str, np.ndarray | None]:
        """The arrays that `block` takes, on whole blocks."""
        return {
            "noise_ratio": self.noise_ratio.read(blocks),
            "unused": None if self.unused is None else self.unused.read(blocks),
        }

    def block(
        self, noise_ratio: np.ndarray, unused: np.ndarray | None, exposure: Exposure
    ) -> OwnWeights:
        """The weights of one block."""
        return OwnWeights(difference_coefficients(unused, noise_ratio, exposure))


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


@dataclass(frozen=True)
class _TileLight:
    """The light on all blocks that a tile touches; `of_fit` are the arrays of the fit."""

    inputs: PhotonNoiseInputs
    level: np.ndarray
    gain: np.ndarray
    of_fit: dict[str, np.ndarray | None]

    @classmethod
    def read(cls, inputs: PhotonNoiseInputs, blocks: Window) -> _TileLight:
        level, gain = inputs.level.read(blocks), inputs.gain.read(blocks)
        return cls(inputs, level, gain, inputs.fit.read(blocks))

    def block(self, cut: tuple[slice, slice]) -> BlockLight:
        """The light on one block, which is `cut` of these arrays."""
        level, gain = (np.ascontiguousarray(a[cut]) for a in (self.level, self.gain))
        of_fit: dict[str, Any] = {
            name: None if a is None else np.ascontiguousarray(a[(..., *cut)])
            for name, a in self.of_fit.items()
        }
        return BlockLight(
            level, gain, self.inputs.fit.block(**of_fit, exposure=self.inputs.exposure)
        )


def write_block_noise(
    layer: Layer,
    streams: Streams,
    window: Window,
    exposure: Exposure,
    light: PhotonNoiseInputs | None,
    target: Spilled,
    ready: Any,
) -> int | None:
    """Draw a layer's block noise on one tile and write it to the store.

    Draws are made in whole blocks of 128 x 128 detector pixels, whatever the tile, and cut.

    Parameters
    ----------
    layer : Layer
    streams : Streams
    window : Window
        The tile.
    exposure : Exposure
    light : PhotonNoiseInputs or None
        None unless a command of the layer needs it.
    target : Spilled
    ready : list
        If the layer needs backgrounds, the first is the list of their coefficients, in the order
        of ``layer.backgrounds``.

    Returns
    -------
    int or None
        How many pixels have no draw; None if a background that the layer needs was not found.
    """
    orders = layer.backgrounds
    backgrounds = dict(zip(orders, ready[0], strict=True)) if orders else {}
    out = np.zeros(window.shape, np.float32)
    blocks = Window(
        window.y0 // CHANNEL_WIDTH * CHANNEL_WIDTH,
        -(-window.y1 // CHANNEL_WIDTH) * CHANNEL_WIDTH,
        window.x0 // CHANNEL_WIDTH * CHANNEL_WIDTH,
        -(-window.x1 // CHANNEL_WIDTH) * CHANNEL_WIDTH,
    )
    tile_light = None if light is None else _TileLight.read(light, blocks)
    without_draw = 0
    for y in range(blocks.y0, blocks.y1, CHANNEL_WIDTH):
        for x in range(blocks.x0, blocks.x1, CHANNEL_WIDTH):
            place = Window(y, y + CHANNEL_WIDTH, x, x + CHANNEL_WIDTH)
            block = DetectorBlock(
                place,
                y // CHANNEL_WIDTH * (exposure.side // CHANNEL_WIDTH) + x // CHANNEL_WIDTH,
                exposure,
                None if tile_light is None else tile_light.block(place.within(blocks)),
                backgrounds,
            )
            values, bad = _draw_block(layer, streams, block)
            both = Window(
                max(y, window.y0),
                min(place.y1, window.y1),
                max(x, window.x0),
                min(place.x1, window.x1),
            )
            out[both.within(window)] = values[both.within(place)]
            if window.y0 <= y and window.x0 <= x:  # count a block once, whatever the tiles
                without_draw += bad
    target.put(out, window)
    not_found = any(coefs is None for coefs in backgrounds.values())
    return None if not_found else without_draw


def _draw_block(layer: Layer, streams: Streams, block: DetectorBlock) -> tuple[np.ndarray, int]:
    """Noise on one block, DN/s, and how many pixels have no draw; reference pixels are 0."""
    drawn = np.zeros(block.window.shape, np.float32)
    without_draw = 0
    for command, argument in layer.acting_on(ActsOn.BLOCKS):
        drawing = DRAWINGS[command.letter]
        assert isinstance(drawing, BlockNoise)
        values, bad = drawing.draw(argument, streams, block)
        drawn += values
        without_draw += bad
    inner = Tile(block.window, block.exposure.side).active
    out = np.zeros(block.window.shape, np.float32)
    out[inner] = drawn[inner]
    return out, without_draw
