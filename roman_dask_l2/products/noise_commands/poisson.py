"""Drawing P: Poisson noise of all light, or of the background."""

from __future__ import annotations

import numpy as np

from ...config.noise_commands.poisson import Poisson
from ...noise.poisson import PoissonNoise, own_poisson_noise
from ...noise.streams import DrawKind, Streams
from ...steps.sky import sky_image
from .drawing import (
    BlockNoise,
    DetectorBlocks,
    ExpectedNoise,
    Light,
    OwnWeights,
    QuietPixels,
)


def draw(argument: Poisson, streams: Streams, blocks: DetectorBlocks) -> tuple[np.ndarray, None]:
    """Draws on blocks, DN/s; 0 where the light is not known."""
    light = blocks.light
    assert light is not None
    level = _level(argument, blocks, light)
    noise = np.empty(level.shape, np.float32)
    fit = light.fit
    if isinstance(fit, OwnWeights):
        for number, place in blocks:
            cut = place.slices
            its = level[cut], light.gain[cut], fit.coefficients(cut), blocks.exposure
            noise[cut] = own_poisson_noise(streams(DrawKind.POISSON, None, number), *its)
        return noise, None
    drawing = PoissonNoise(level, light.gain, fit.rows, fit.weights, blocks.exposure)
    for number, place in blocks:
        drawing.draw(streams(DrawKind.POISSON, None, number), place, noise)
    return noise, None


def _level(argument: Poisson, blocks: DetectorBlocks, light: Light) -> np.ndarray:
    """Expected signal, DN/s: all light, or the background."""
    order = argument.background_order
    if order is None:
        return light.level
    background = blocks.backgrounds[order]
    if background is None:
        return np.full(blocks.window.shape, np.nan, np.float32)
    return sky_image(background, order, blocks.window, blocks.exposure.side)


def expect(argument: Poisson, quiet: QuietPixels) -> ExpectedNoise | None:
    variance = quiet.all_light if argument.background_order is None else quiet.background
    return None if variance is None else ExpectedNoise(variance)


drawing = BlockNoise(draw, expect)
