"""One simulated exposure, from light to raw numbers."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..core.detector import CHANNEL_WIDTH
from .detector import Pixels
from .observatory_detector import PolynomialPixels, ReadByRead
from .options import Options
from .readout import Electronics, Wells, read_times
from .settings import DARK_DECAY, GAIN, WELL, WFI18, Run
from .sky import draw_cosmic_rays, make_scene


@dataclass
class Exposed:
    """What an exposure leaves, with r resultants of side N.

    Attributes
    ----------
    data : (r, N, N) uint16 ndarray
        Raw values, DN.
    amp33 : (r, N, 128) uint16 ndarray
        The reference output.
    dark : (r, N, N) float32 ndarray or None
        The signal of an exposure without light or noise, DN; None once it is written, as it takes
        half a gigabyte of memory, and where no reference file has it.
    rate : (N-8, N-8) float32 ndarray
        The true rate by the convention of the reference files, DN_lin/s, with sky.
    hits : (k, 4) int64 ndarray
        Cosmic rays: y, x, the frame whose read first shows them, electrons.
    saturating : list of dict
        The stars that were made to saturate.
    """

    data: np.ndarray
    amp33: np.ndarray
    dark: np.ndarray | None
    rate: np.ndarray
    hits: np.ndarray
    saturating: list[dict[str, int]]


def expose(options: Options, run: Run, pixels: Pixels) -> tuple[Exposed, Electronics]:
    """Expose the detector and read it out; also returns what the reference files tell of it."""
    wells, rate, saturating = _fill(options, run, pixels)
    electronics = _electronics(options, run, pixels)
    planes, middle = len(run.pattern), len(run.pattern) // 2
    convert = electronics.convert if isinstance(electronics, ReadByRead) else None
    dark = np.empty((1 if convert else planes, run.side, run.side), np.float32)
    data = np.empty((planes, run.side, run.side), np.uint16)
    amp33 = np.empty((planes, run.side, CHANNEL_WIDTH), np.uint16)
    for j in range(planes):
        data[j], amp33[j] = electronics.resultant(
            j, wells.resultant(j, convert), dark[0 if convert else j]
        )
    for i, (y, x) in enumerate(run.at("ad_floor")):
        data[(slice(None), slice(middle, middle + 1), slice(middle, None))[i % 3], y, x] = 0
    return Exposed(
        data, amp33, None if convert else dark, rate, wells.hits, saturating
    ), electronics


def _fill(
    options: Options, run: Run, pixels: Pixels
) -> tuple[Wells, np.ndarray, list[dict[str, int]]]:
    """The wells before the first read, the true rate, and the stars made to saturate."""
    light, saturating = make_scene(run, pixels, options.stars, options.dither)
    layers = [light * pixels.response + pixels.hot]
    rate = pixels.area * np.asarray(options.sky, np.float32)
    layers.append(np.float32(GAIN) * rate * pixels.response + pixels.dark)
    rate += light / np.float32(GAIN)
    for layer in layers:
        layer *= np.float32(run.frame_time)
    full = np.float32(WELL) * pixels.gain * pixels.to_linear(pixels.threshold)
    run.put(full, "dead", [0.0])  # a dead pixel holds nothing
    if isinstance(pixels, PolynomialPixels):
        rate /= pixels.area  # which the observatory's flat contains
    return Wells(run, layers, full, draw_cosmic_rays(run, options.cosmic_rays)), rate, saturating


def _electronics(options: Options, run: Run, pixels: Pixels) -> Electronics:
    if isinstance(pixels, PolynomialPixels):
        electronics: Electronics = ReadByRead(run, pixels, t0=run.frame_time)
    else:
        electronics = Electronics(run, pixels, options.has_bias, t0=run.frame_time)
    times = (options.detector, run.frame_time)
    if options.has_dark_decay:
        a, tau = DARK_DECAY.values()
        electronics.add_decay(read_times(run.side, *times), a, tau, -1.5, slice(None))
    for a, tau in WFI18 if options.wfi18_transient else ():
        # reads are counted from 1 where the observatory's files describe the detector
        shift = -1 if isinstance(electronics, ReadByRead) else 0
        electronics.add_decay(read_times(run.side, *times), a, tau, shift, slice(1))
    return electronics
