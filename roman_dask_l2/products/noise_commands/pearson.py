"""Drawing O: Pearson draws with the moments of pseudo-Poisson noise."""

from __future__ import annotations

import numpy as np

from ...config.noise_commands.pearson import Pearson
from ...noise.pearson import own_pearson_noise, pearson_noise
from ...noise.streams import DrawKind, Streams
from .drawing import BlockNoise, DetectorBlock, ExpectedNoise, OwnWeights, QuietPixels


def draw(argument: Pearson, streams: Streams, block: DetectorBlock) -> tuple[np.ndarray, int]:
    """Draws on one block, DN/s, and how many pixels have moments that no distribution has."""
    light, exposure = block.light, block.exposure
    assert light is not None
    level, gain, fit = light.level, light.gain, light.fit
    rng = streams(DrawKind.PEARSON, None, block.number)
    if isinstance(fit, OwnWeights):
        return own_pearson_noise(rng, level, gain, fit.coefficients, exposure)
    values, inadmissible = pearson_noise(rng, level, gain, fit.ends, fit.full_weights, exposure)
    other = fit.rows != fit.ends
    if other.any():
        # From a stream of their own: how many numbers a draw takes depends on the weights, and the
        # other pixels must not notice.
        inadmissible -= int(((values[other] == 0) & np.isfinite(level[other])).sum())
        rng = streams(DrawKind.PEARSON_EXCLUDED, None, block.number)
        its_level, its_gain, its_rows = (a[other][np.newaxis] for a in (level, gain, fit.rows))
        again, bad = pearson_noise(rng, its_level, its_gain, its_rows, fit.weights, exposure)
        values[other] = again[0]
        inadmissible += bad
    return values, inadmissible


def expect(argument: Pearson, quiet: QuietPixels) -> ExpectedNoise | None:
    return None if quiet.all_light is None else ExpectedNoise(quiet.all_light)


drawing = BlockNoise(draw, expect)
