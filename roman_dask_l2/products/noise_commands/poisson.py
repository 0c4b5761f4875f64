"""Drawing P: Poisson noise of all light, or of the background."""

from __future__ import annotations

import numpy as np

from ...config.noise_commands.poisson import Poisson
from ...noise.poisson import own_poisson_noise, poisson_noise
from ...noise.streams import DrawKind, Streams
from ...steps.sky import sky_model
from .drawing import BlockNoise, DetectorBlock, ExpectedNoise, OwnWeights, QuietPixels


def draw(argument: Poisson, streams: Streams, block: DetectorBlock) -> tuple[np.ndarray, int]:
    """Draws on one block, DN/s; 0 where the light is not known."""
    light, exposure = block.light, block.exposure
    assert light is not None
    level, order = light.level, argument.background_order
    if order is not None:
        background = block.backgrounds[order]
        if background is None:
            level = np.full(block.window.shape, np.nan, np.float32)
        else:
            level = sky_model(background, order, block.window, exposure.side).astype(np.float32)
    rng = streams(DrawKind.POISSON, None, block.number)
    fit = light.fit
    if isinstance(fit, OwnWeights):
        return own_poisson_noise(rng, level, light.gain, fit.coefficients, exposure), 0
    return poisson_noise(rng, level, light.gain, fit.rows, fit.weights, exposure), 0


def expect(argument: Poisson, quiet: QuietPixels) -> ExpectedNoise | None:
    variance = quiet.all_light if argument.background_order is None else quiet.background
    return None if variance is None else ExpectedNoise(variance)


drawing = BlockNoise(draw, expect)
