"""Drawing O: Pearson draws with the moments of pseudo-Poisson noise."""

from __future__ import annotations

import numpy as np

from ...config.noise_commands.pearson import Pearson
from ...noise.pearson import PearsonNoise, own_pearson_noise, pearson_noise
from ...noise.streams import DrawKind, Streams
from .drawing import BlockNoise, DetectorBlocks, ExpectedNoise, OwnWeights, QuietPixels


def draw(
    argument: Pearson, streams: Streams, blocks: DetectorBlocks
) -> tuple[np.ndarray, np.ndarray]:
    """Draws on blocks, DN/s, and where the moments are such that no distribution has them."""
    light, exposure = blocks.light, blocks.exposure
    assert light is not None
    level, gain, fit = light.level, light.gain, light.fit
    noise = np.empty(level.shape, np.float32)
    inadmissible = np.zeros(level.shape, np.bool_)
    if isinstance(fit, OwnWeights):
        for number, place in blocks:
            cut = place.slices
            light_here = np.ascontiguousarray(level[cut]), np.ascontiguousarray(gain[cut])
            rng = streams(DrawKind.PEARSON, None, number)
            noise[cut], inadmissible[cut] = own_pearson_noise(
                rng, *light_here, fit.coefficients(cut), exposure
            )
        return noise, inadmissible
    drawing = PearsonNoise(level, gain, fit.ends, fit.full_weights, exposure)
    for number, place in blocks:
        drawing.draw(streams(DrawKind.PEARSON, None, number), place, noise, inadmissible)
        other = fit.rows[place.slices] != fit.ends[place.slices]
        if other.any():
            # From a stream of their own: how many numbers a draw takes depends on the weights, and
            # the other pixels must not notice.
            rng = streams(DrawKind.PEARSON_EXCLUDED, None, number)
            some = place.slices
            again, bad = pearson_noise(
                rng,
                level[some][other][np.newaxis],
                gain[some][other][np.newaxis],
                fit.rows[some][other][np.newaxis],
                fit.weights,
                exposure,
            )
            noise[place.slices][other], inadmissible[place.slices][other] = again[0], bad[0]
    return noise, inadmissible


def expect(argument: Pearson, quiet: QuietPixels) -> ExpectedNoise | None:
    return None if quiet.all_light is None else ExpectedNoise(quiet.all_light)


drawing = BlockNoise(draw, expect)
