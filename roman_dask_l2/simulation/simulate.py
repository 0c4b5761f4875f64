"""A small simulator of honest input: one L1 exposure, every reference file, a WCS and the truth.

The forward model runs in the order of the physics, the reverse of the calibration::

    light x response x area -> Poisson charge, read by read (+ dark current, cosmic rays)
    -> full well -> mean over the reads of a resultant -> IPC -> gain (e to DN_lin) -> reset level
    -> inverse linearity (DN_lin to DN_raw) -> bias -> read noise, 1/f noise -> rounding, clipping

It is made for tests, the demo and benchmarks, not for science: stars are Moffat profiles, cosmic
rays straight tracks, and the charge (not the raw signal) is averaged over the reads of a
resultant, which differs only in second order of the curvature of the linearity.

Arrays are ``[resultant, y, x]``, positions (y, x) those of the full frame of side `N`; the active
array has side ``n = N - 8``. Every draw comes from a random stream of its own, seeded by (seed,
name, index): adding one thing does not shift the others, and the number of threads changes nothing.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .detector import choose_places, make_detector
from .expose import expose
from .observatory_detector import make_polynomial_detector
from .options import Options
from .references import same_detector
from .settings import Given, Simulation
from .write import write_configuration, write_level1, write_references, write_truth, write_wcs

log = logging.getLogger(__name__)


def simulate(
    directory: str | os.PathLike,
    *,
    side: int = 1024,
    read_pattern: Sequence[Sequence[int]] | None = None,
    frame_time: float = 3.04,
    seed: int = 1,
    detector: str = "WFI01",
    optical_element: str = "F158",
    conditions: str | Iterable[str] = "all",
    sky: float | np.ndarray = 0.4,
    stars: Given = None,
    cosmic_rays: Given = None,
    noise: Mapping[str, float] | None = None,
    guide_window: Sequence[int] | None = None,
    reference_read: int | None = None,
    extra_plane: bool | None = None,
    amp33: bool = True,
    biascorr: bool | None = None,
    dark_decay: bool | None = None,
    wfi18_transient: bool = False,
    array_format: Mapping[str, str] | None = None,
    wcs: str | None = None,
    config: Mapping[str, Any] | None = None,
    threads: int = 2,
    detector_seed: int | None = None,
    sky_seed: int | None = None,
    dither: tuple[float, float] | None = None,
    cal: str | os.PathLike | None = None,
    references: str = "survey",
    ipc: bool | None = None,
) -> Simulation:
    """Simulate one exposure with its reference files, configuration and truth.

    Parameters
    ----------
    directory : path
        Where to write; made if need be. Files of an earlier simulation are replaced.
    side : int
        Detector side N, a multiple of 128 from 256 up.
    read_pattern : sequence of sequences of int, optional
        Frames averaged in each resultant, ascending. Default: `READ_PATTERN`, which counts frames
        from 0; with the observatory's references, which ask for that, the same from 1.
    frame_time : float
        Seconds.
    seed : int
        All draws follow from it.
    detector, optical_element : str
        "WFI01" to "WFI18", and the filter.
    conditions : "all", "plain" (none), a name or names
        What to put in, see `CONDITIONS`.
    sky : float or (N-8, N-8) ndarray
        Background of a nominal pixel of ideal area, DN_lin/s.
    stars : int, sequence of (y, x, peak) or None
        How many random stars, none of them near saturation; or where (full frame) and how bright
        (peak, DN_lin/s). None: one for each 64 x 64 pixels. The saturating ones are a condition.
    cosmic_rays : int, sequence of (y, x, frame, electrons) or None
        How many tracks; or where, which frame's read first shows it, and charge. None: 5 per
        second and cm^2.
    noise : mapping, optional
        Changes to `NOISE`.
    guide_window : (xstart, xstop, ystart, ystop), optional
        Instead of the windows of the conditions.
    reference_read : int, optional
        Take the first resultant out as reference read and subtract it from the others, with this
        ``data_encoding_offset``.
    extra_plane : bool, optional
        Whether `dark.data` and `biascorr.data` have one plane more than the exposure, in front.
        Default: only where the reference read was taken out.
    amp33 : bool
        Whether the read file describes the reference output.
    biascorr : bool, optional
        Whether there is a bias and its correction. Default: only with the survey's references.
    dark_decay : bool, optional
        Whether there is this signal and its reference file. Default: only with the observatory's
        references.
    wfi18_transient : bool
        Add this signal.
    array_format : mapping of str to str, optional
        For reference keys, words joined by "+" of float64, big-endian, quantity, zlib, bzp2, lz4.
    wcs : "fits", "gwcs", "l1" or "distortion", optional
        Whether the configuration names the FITS header (which is always written), an ASDF file
        with a gwcs, or nothing: the gwcs is in the L1 file, or follows from the distortion file
        and the pointing in the L1 file. Default: "fits"; with the observatory's references
        "distortion", which is only for these.
    config : mapping, optional
        Keys added to the configuration; None as a value removes the key.
    threads : int
        The result does not depend on it.
    detector_seed, sky_seed : int, optional
        Of the detector (all that reference files tell) and of the random stars. Default: `seed`.
    dither : (y, x), optional
        By how many pixels the sky lies elsewhere than without; at most an eighth of the side. The
        random stars are then drawn on a field that is larger by that much.
    cal : path, optional
        Folder of the reference files, default: ``cal`` in `directory`. If it has those of an
        earlier simulation they are used, and must be of the same detector; else they are written.
    references : "survey" or "observatory"
        Whose reference files describe the detector. The observatory's have the names and the form
        of its schemas. Such a detector differs: raw signals are polynomials of the linear ones and
        go read by read through a converter with an integral non-linearity; there is no bias, and
        no IPC unless asked for; the 1/f noise is stronger, and the condition "off_range" does not
        exist.
    ipc : bool, optional
        Whether there is inter-pixel capacitance and its reference file. Default: only with the
        survey's references, which are never without.

    Returns
    -------
    Simulation

    Raises
    ------
    InputError
        For options that cannot be.

    Notes
    -----
    The truth file holds under ``truth``: `rate` (N-8, N-8) float32, the light on a pixel of
    nominal gain and response in DN_lin/s, with sky and without dark current, which is what the
    calibrated rate before sky subtraction is in the mean wherever the reference files are right
    (with the observatory's references over the solid angle of the pixel, which the flat contains:
    uniform light has a uniform rate);
    `cosmic_rays` (arrays `y`, `x`, `frame`, `electrons`, the last before IPC and full well);
    `saturated_at` (N, N) int8 (int16 with more than 127 resultants), the first resultant whose raw
    value reaches the threshold of the saturation file, -1 for none; `saturating_stars`, a list of
    `y`, `x`, `resultant`, `amid` (filled up amid the reads of the resultant, which may then stay
    below threshold);
    `conditions`, name to (k, 2) places; `guide_window`; `options`.
    """
    began = time.monotonic()
    options = Options(
        Path(directory), side, read_pattern, frame_time, seed, detector, optical_element,
        conditions, sky, stars, cosmic_rays, noise, guide_window, reference_read, extra_plane,
        amp33, biascorr, dark_decay, wfi18_transient, array_format, wcs, config, threads,
        detector_seed, sky_seed, dither, None if cal is None else Path(cal),
        references, ipc,
    )  # fmt: skip
    reused = options.cal is not None and same_detector(options)
    run = options.run()
    choose_places(run, options.conditions)
    pixels = (
        make_polynomial_detector(run, options.has_ipc)
        if options.of_observatory
        else make_detector(run)
    )
    exposed, electronics = expose(options, run, pixels)
    told = (options, run, pixels, electronics, exposed)
    caldir, saturated_at = write_references(*told, reused=reused)
    del pixels, electronics  # gigabytes of a full frame, which what follows has no use for

    directory = options.directory
    result = Simulation(
        directory, directory / "l1.asdf", caldir, directory / "wcs.txt",
        directory / "config.yaml", directory / "truth.asdf",
        directory / "gwcs.asdf" if options.wcs == "gwcs" else None,
    )  # fmt: skip
    write_level1(options, run, exposed, result.l1)
    write_wcs(options, result)
    write_configuration(options, run, result)
    write_truth(options, run, exposed, saturated_at, result.truth)
    log.info(
        "simulated %d x %d x %d in %s, %.1f s",
        len(run.pattern) - options.n_taken_out, side, side, directory, time.monotonic() - began,
    )  # fmt: skip
    return result
