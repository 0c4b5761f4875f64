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

import asdf
import numpy as np
import yaml

from ..core.detector import BORDER, CHANNEL_WIDTH, check_side
from ..core.dq import GROUP
from ..core.exposure import index_dtype
from ..errors import InputError
from .detector import choose_places, condition_names, make_detector, to_linear
from .files import make_configuration, make_level1, make_references, write_reference
from .readout import Electronics, Wells, make_planes, read_times
from .settings import (
    DARK_DECAY,
    GAIN,
    NAN_ARRAYS,
    NOISE,
    PACKED,
    READ_PATTERN,
    WELL,
    WFI18,
    Given,
    Run,
    Simulation,
)
from .sky import draw_cosmic_rays, make_scene
from .wcs import make_gwcs, wcs_cards

log = logging.getLogger(__name__)


def simulate(
    directory: str | os.PathLike,
    *,
    side: int = 1024,
    read_pattern: Sequence[Sequence[int]] = READ_PATTERN,
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
    biascorr: bool = True,
    dark_decay: bool = False,
    wfi18_transient: bool = False,
    array_format: Mapping[str, str] | None = None,
    wcs: str = "fits",
    config: Mapping[str, Any] | None = None,
    threads: int = 2,
) -> Simulation:
    """Simulate one exposure with its reference files, configuration and truth.

    Parameters
    ----------
    directory : path
        Where to write; made if need be. Files of an earlier simulation are replaced.
    side : int
        Detector side N, a multiple of 128 from 256 up.
    read_pattern : sequence of sequences of int
        Frames averaged in each resultant, ascending.
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
    amp33, biascorr : bool
        Whether the read file describes the reference output; whether there is a bias correction.
    dark_decay, wfi18_transient : bool
        Add these signals, and the reference file of the first.
    array_format : mapping of str to str, optional
        For reference keys, words joined by "+" of float64, big-endian, quantity, zlib, bzp2, lz4.
    wcs : "fits", "gwcs" or "l1"
        Whether the configuration names the FITS header (which is always written), an ASDF file
        with a gwcs, or nothing, the gwcs being in the L1 file.
    config : mapping, optional
        Keys added to the configuration; None as a value removes the key.
    threads : int
        The result does not depend on it.

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
    calibrated rate before sky subtraction is in the mean wherever the reference files are right;
    `cosmic_rays` (arrays `y`, `x`, `frame`, `electrons`, the last before IPC and full well);
    `saturated_at` (N, N) int8 (int16 with more than 127 resultants), the first resultant whose raw
    value reaches the threshold of the saturation file, -1 for none; `saturating_stars`, a list of
    `y`, `x`, `resultant`, `amid` (filled up amid the reads of the resultant, which may then stay
    below threshold);
    `conditions`, name to (k, 2) places; `guide_window`; `options`.
    """
    began, directory = time.monotonic(), Path(directory)
    check_side(side, "simulate")
    if set("#?%") & set(str(directory.absolute())):  # asdf would write elsewhere
        raise InputError(f"{directory}: expected a directory without #, ? and % in its name")
    names = condition_names(conditions)
    pattern = [[int(f) for f in reads] for reads in read_pattern]
    frames = [f for reads in pattern for f in reads]
    if not all(pattern) or frames != sorted(set(frames)) or len(pattern) < 3:
        raise InputError(f"read pattern {pattern}: expected 3 or more resultants, frames ascending")
    if wcs not in ("fits", "gwcs", "l1"):
        raise InputError(f"wcs {wcs!r}: expected 'fits', 'gwcs' or 'l1'")
    if wfi18_transient and detector != "WFI18":
        raise InputError(f"wfi18_transient: only WFI18 has it, not {detector}")
    if guide_window is None and "guide_window" in names:
        guide_window = [side // 2 - 8, side // 2 + 8] * 2
    elif guide_window is None and "guide_window_edge" in names:
        guide_window = [0, 16, side - 16, side]
    formats = dict(array_format or {})
    words = {word for how in formats.values() for word in how.split("+")}
    if unknown := words - PACKED - {"float64", "big-endian", "quantity"}:
        raise InputError(f"array_format: unknown {sorted(unknown)}")

    run = Run(side, pattern, frame_time, seed, NOISE | dict(noise or {}), threads)
    choose_places(run, names)
    pixels = make_detector(run)
    light, saturating = make_scene(run, pixels, stars)
    layers = [light * pixels.response + pixels.hot]
    rate = pixels.area * np.asarray(sky, np.float32)
    layers.append(np.float32(GAIN) * rate * pixels.response + pixels.dark)
    rate += light / np.float32(GAIN)
    for layer in layers:
        layer *= np.float32(frame_time)
    full = np.float32(WELL) * pixels.gain * to_linear(pixels, pixels.threshold)
    run.put(full, "dead", [0.0])  # a dead pixel holds nothing
    wells = Wells(run, layers, full, draw_cosmic_rays(run, cosmic_rays))
    electronics = Electronics(run, pixels, biascorr, t0=frame_time)
    if dark_decay:
        a, tau = DARK_DECAY.values()
        electronics.add_decay(read_times(side, detector, frame_time), a, tau, -1.5, slice(None))
    for a, tau in WFI18 if wfi18_transient else ():
        electronics.add_decay(read_times(side, detector, frame_time), a, tau, 0, slice(1))

    planes, middle = len(pattern), len(pattern) // 2
    dark = np.empty((planes, side, side), np.float32)
    data = np.empty((planes, side, side), np.uint16)
    data33 = np.empty((planes, side, CHANNEL_WIDTH), np.uint16)
    for j in range(planes):
        data[j], data33[j] = electronics.resultant(j, wells.resultant(j), dark[j])
    for i, (y, x) in enumerate(run.at("ad_floor")):
        data[(slice(None), slice(middle, middle + 1), slice(middle, None))[i % 3], y, x] = 0
    hits = wells.hits
    del wells, layers, full, light

    (directory / "cal").mkdir(parents=True, exist_ok=True)
    caldir: dict[str, Path] = {}
    first = 0 if reference_read is None else 1
    extra_plane = bool(first) if extra_plane is None else extra_plane
    saturated_at = np.full((side, side), -1, index_dtype(planes - first))

    def write(key: str, tree: dict[str, Any]) -> None:
        for (file, name), (y, x) in zip(NAN_ARRAYS, run.at("nan_reference"), strict=False):
            if file == key:
                tree[name] = tree[name].copy()
                shift = BORDER if tree[name].shape[-1] == run.n else 0
                tree[name][..., y - shift, x - shift] = np.nan
        caldir[key] = directory / "cal" / f"{key}.asdf"
        write_reference(caldir[key], tree, formats.get(key, ""), detector, optical_element)

    for key, tree in make_references(run, pixels, electronics, amp33):
        if key == "saturation":
            for j in reversed(range(first, planes)):  # NaN is never reached
                saturated_at[data[j] >= tree["data"]] = j - first
        if key == "dark":
            tree["data"] = make_planes(dark, first, extra_plane)
            del dark
        write(key, tree)
    if biascorr:
        cube = np.stack([electronics.bias(j) for j in range(planes)])
        write("biascorr", {"data": make_planes(cube, first, extra_plane), "t0": frame_time})
    if dark_decay:
        write("dark_decay", {"decay_table": {detector: dict(DARK_DECAY)}})
    if unknown := set(formats) - set(caldir):
        raise InputError(f"array_format: no reference file {sorted(unknown)}")
    del pixels, electronics

    result = Simulation(
        directory, directory / "l1.asdf", caldir, directory / "wcs.txt",
        directory / "config.yaml", directory / "truth.asdf",
        directory / "gwcs.asdf" if wcs == "gwcs" else None,
    )  # fmt: skip
    model = make_level1(run, result.l1, data, data33, reference_read)
    model["meta"]["instrument"].update({"detector": detector, "optical_element": optical_element})
    model["meta"]["wcsinfo"]["aperture_name"] = f"{detector}_FULL"
    if guide_window is not None:
        for name, value in zip(("xstart", "xstop", "ystart", "ystop"), guide_window, strict=True):
            model["meta"]["guide_star"][f"window_{name}"] = int(value)
    if "dropout" in names:
        model["resultantdq"] = np.zeros((planes - first, side, side), np.uint8)
        run.put(model["resultantdq"][middle - first], "dropout", [GROUP["DROPOUT"]])
    if wcs == "l1":
        model["meta"]["wcs"] = make_gwcs(side)
    model.save(result.l1)

    from astropy.io import fits

    # cards of 80 characters without line breaks, which is what readers of such files expect
    result.fitswcs.write_text(fits.Header(wcs_cards(side)).tostring())
    if result.gwcs:
        asdf.AsdfFile({"wcs": make_gwcs(side)}).write_to(result.gwcs)
    settings = make_configuration(run, caldir, wcs) | dict(config or {})
    settings = {key: value for key, value in settings.items() if value is not None}
    result.config.write_text(yaml.safe_dump(settings, sort_keys=False))
    truth = {"rate": rate, "saturated_at": saturated_at, "saturating_stars": saturating}
    truth["cosmic_rays"] = dict(zip(("y", "x", "frame", "electrons"), hits.T.copy(), strict=True))
    truth["conditions"] = run.places
    truth["guide_window"] = None if guide_window is None else [int(v) for v in guide_window]
    truth["options"] = {"side": side, "seed": seed, "read_pattern": pattern, "noise": run.noise}
    asdf.AsdfFile({"truth": truth}).write_to(result.truth)
    log.info("simulated %d x %d x %d in %s, %.1f s", planes - first, side, side, directory,
             time.monotonic() - began)  # fmt: skip
    return result
