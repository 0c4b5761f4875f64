"""Drawing R: read noise in a ramp, one resultant at a time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ...config.noise_commands.read_noise import ReadNoise
from ...core.detector import CHANNEL_WIDTH, Window
from ...io.references import Inputs
from ...io.spill import Spilled
from ...noise.read_noise import PlaneNoise, common_series, noisy_amp33
from ...noise.streams import Streams
from ...system.processes import give_back
from ..base_ramp import own_amp33, quiet_plane, read_noise, reference_pixels, reset_noise
from .drawing import SIGMA, ExpectedNoise, Limits, Quartiles, QuietPixels, RampNoise


def write_plane(
    argument: ReadNoise,
    j: int,
    own: bool,
    of_dark: bool,
    streams: Streams,
    inputs: Inputs,
    cube: tuple[Spilled, Spilled],
    waits: Any,
) -> None:
    """Make resultant `j` of a noisy ramp and write it to the store.

    Parameters
    ----------
    argument : ReadNoise
    j : int
    own : bool
        Noise is added to the exposure's own ramp, else to the dark cube.
    of_dark : bool
        See `dark_border`.
    streams : Streams
    inputs : Inputs
    cube : two of Spilled
        For the resultants, and for those of the reference output.
    waits : object
        What was to be done before.
    """
    give_back()  # memory that tiles have freed would add to that of the planes
    exposure, sources = inputs.exposure, inputs.sources
    n = exposure.side
    n_reads = float(exposure.n_reads[j])
    common = common_series(streams, j, n)
    c_pink, u_pink = (
        float(sources[name].read()) if name in sources else 0.0
        for name in ("read.anc.C_PINK", "read.anc.U_PINK")
    )
    noise = PlaneNoise(
        reference_pixels(inputs, j, of_dark),
        reset_noise(inputs),
        c_pink,
        u_pink,
        n_reads,
        common,
        streams,
        j,
    )
    with quiet_plane(inputs, j, own) as plane:
        noise.add(plane, read_noise(sources["read.data"], n))
        cube[0].put(plane, Window(0, n, 0, n), j)
    if "read.amp33.med" in sources:
        median, std, m_pink, ru_pink = (
            sources[f"read.amp33.{name}"].read() for name in ("med", "std", "M_PINK", "RU_PINK")
        )
        if not of_dark:
            median = own_amp33(inputs, j)
        amp33 = noisy_amp33(
            median, std, float(m_pink), float(ru_pink), c_pink, n_reads, common, streams, j
        )
    elif "l1.amp33" in sources:  # nothing is known of its noise
        amp33 = own_amp33(inputs, j)
    else:  # no step reads it
        amp33 = np.zeros((n, CHANNEL_WIDTH), np.uint16)
    cube[1].put(amp33, Window(0, n, 0, CHANNEL_WIDTH), j)


def limits(argument: ReadNoise, quartiles: Callable[[], Quartiles]) -> Limits | None:
    return None if argument.clip is None else clip_limits(quartiles(), argument.clip)


def clip_limits(quarters: Quartiles, q: float) -> Limits:
    """Median -+ q sigma of an image with these quartiles, sigma from the interquartile range."""
    q25, middle, q75 = quarters
    reach = q * (q75 - q25) / SIGMA
    if not np.isfinite(reach):  # no pixel can be used
        return np.float32(-np.inf), np.float32(np.inf)
    return np.float32(middle - reach), np.float32(middle + reach)


def expect(argument: ReadNoise, quiet: QuietPixels) -> ExpectedNoise | None:
    if not quiet.read_variance.size:
        return None
    return ExpectedNoise(quiet.read_variance, quiet.read_spectrum)


drawing = RampNoise(write_plane, limits, expect)
