"""A simulated exposure is written: references, Level 1, WCS, configuration, truth."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import asdf
import numpy as np
import yaml

from ..core.detector import BORDER
from ..core.dq import GROUP
from ..core.exposure import index_dtype
from ..errors import InputError
from .detector import LegendrePixels, Pixels
from .expose import Exposed
from .files import make_configuration, make_level1, make_references, write_reference
from .observatory_detector import PolynomialPixels, ReadByRead
from .observatory_files import make_observatory_references, put_nans, write_observatory_reference
from .options import Options
from .readout import Electronics, make_planes
from .references import KEYS, described
from .settings import DARK_DECAY, NAN_ARRAYS, Run, Simulation
from .wcs import make_gwcs, wcs_cards


def write_references(
    options: Options,
    run: Run,
    pixels: Pixels,
    electronics: Electronics,
    exposed: Exposed,
    *,
    reused: bool = False,
) -> tuple[dict[str, Path], np.ndarray]:
    """Write every reference file, unless those that are there are reused.

    `exposed` gives its dark cube away.

    Returns
    -------
    caldir : dict of str to Path
        The files, by reference key.
    saturated_at : (N, N) int8 or int16 ndarray
        The first resultant whose raw value reaches the threshold of the saturation file, or -1.
    """
    options.directory.mkdir(parents=True, exist_ok=True)
    options.folder.mkdir(parents=True, exist_ok=True)
    formats, caldir = options.formats, dict[str, Path]()
    first, extra, planes = options.n_taken_out, options.has_extra_plane, len(run.pattern)
    about = described(options)
    if isinstance(pixels, PolynomialPixels):
        assert isinstance(electronics, ReadByRead)
        for key, tree in make_observatory_references(options, run, pixels, electronics):
            if key == "saturation":
                saturated_at = _saturated_at(options, run, exposed, tree["data"])
            path = caldir[key] = options.folder / f"{key}.asdf"
            if not reused:
                put_nans(run, key, tree)
                told = about if key in KEYS else None
                write_observatory_reference(path, tree, options, told)
        if options.has_ipc:  # in the survey's form: the observatory has none
            path = caldir["ipc4d"] = options.folder / "ipc4d.asdf"
            if not reused:
                write_reference(
                    path, {"data": pixels.kernel}, "", options.detector, options.optical_element
                )
        return caldir, saturated_at
    assert isinstance(pixels, LegendrePixels)

    def write(key: str, tree: dict[str, Any]) -> None:
        path = caldir[key] = options.folder / f"{key}.asdf"
        if reused:
            return
        _put_nans(run, key, tree)
        how, told = formats.get(key, ""), about if key in KEYS else None
        write_reference(path, tree, how, options.detector, options.optical_element, told)

    for key, tree in make_references(run, pixels, electronics, options.amp33):
        if key == "saturation":
            saturated_at = _saturated_at(options, run, exposed, tree["data"])
        if key == "dark":
            assert exposed.dark is not None
            tree["data"] = make_planes(exposed.dark, first, extra)
            exposed.dark = None
        write(key, tree)
    if options.has_bias:
        cube = np.stack([electronics.bias(j) for j in range(planes)])
        write("biascorr", {"data": make_planes(cube, first, extra), "t0": run.frame_time})
    if options.has_dark_decay:
        write("dark_decay", {"decay_table": {options.detector: dict(DARK_DECAY)}})
    if unknown := set(formats) - set(caldir):
        raise InputError(f"array_format: no reference file {sorted(unknown)}")
    return caldir, saturated_at


def _saturated_at(
    options: Options, run: Run, exposed: Exposed, threshold: np.ndarray
) -> np.ndarray:
    """(N, N) first resultant whose raw value reaches the threshold, -1 for none."""
    first, planes = options.n_taken_out, len(run.pattern)
    found = np.full((run.side, run.side), -1, index_dtype(planes - first))
    for j in reversed(range(first, planes)):  # NaN is never reached
        found[exposed.data[j] >= threshold] = j - first
    return found


def _put_nans(run: Run, key: str, tree: dict[str, Any]) -> None:
    """Put NaN into arrays of a reference file where the condition asks for it."""
    for (file, name), (y, x) in zip(NAN_ARRAYS, run.at("nan_reference"), strict=False):
        if file == key:
            tree[name] = tree[name].copy()
            shift = BORDER if tree[name].shape[-1] == run.n else 0
            tree[name][..., y - shift, x - shift] = np.nan


def write_level1(options: Options, run: Run, exposed: Exposed, path: Path) -> None:
    """Write the Level 1 file."""
    model = make_level1(options, run, path, exposed)
    meta = model["meta"]
    meta["instrument"].update(
        {"detector": options.detector, "optical_element": options.optical_element}
    )
    meta["wcsinfo"]["aperture_name"] = f"{options.detector}_FULL"
    if options.window is not None:
        for name, value in zip(("xstart", "xstop", "ystart", "ystop"), options.window, strict=True):
            meta["guide_star"][f"window_{name}"] = value
    if "dropout" in options.conditions:
        first, planes = options.n_taken_out, len(run.pattern)
        model["resultantdq"] = np.zeros((planes - first, run.side, run.side), np.uint8)
        run.put(model["resultantdq"][planes // 2 - first], "dropout", [GROUP["DROPOUT"]])
    if options.wcs == "l1":
        meta["wcs"] = make_gwcs(run.side, options.dither)
    model.save(path)


def write_wcs(options: Options, result: Simulation) -> None:
    """Write the FITS header, and the gwcs file if it was asked for."""
    from astropy.io import fits

    # cards of 80 characters without line breaks, which is what readers of such files expect
    result.fitswcs.write_text(fits.Header(wcs_cards(options.side, options.dither)).tostring())
    if result.gwcs:
        asdf.AsdfFile({"wcs": make_gwcs(options.side, options.dither)}).write_to(result.gwcs)


def write_configuration(options: Options, run: Run, result: Simulation) -> None:
    """Write a configuration that is ready to run."""
    settings = make_configuration(options, run, result.caldir) | dict(options.config or {})
    settings = {key: value for key, value in settings.items() if value is not None}
    result.config.write_text(yaml.safe_dump(settings, sort_keys=False))


def write_truth(
    options: Options, run: Run, exposed: Exposed, saturated_at: np.ndarray, path: Path
) -> None:
    """Write what the calibration should find; see the notes of `simulate`."""
    truth: dict[str, Any] = {
        "rate": exposed.rate,
        "saturated_at": saturated_at,
        "saturating_stars": exposed.saturating,
    }
    columns = ("y", "x", "frame", "electrons")
    truth["cosmic_rays"] = dict(zip(columns, exposed.hits.T.copy(), strict=True))
    truth["conditions"] = run.places
    truth["guide_window"] = options.window
    truth["options"] = {
        "side": run.side, "seed": run.seeds.exposure, "detector_seed": run.seeds.detector,
        "sky_seed": run.seeds.sky, "dither": options.dither and [float(d) for d in options.dither],
        "read_pattern": run.pattern, "noise": run.noise,
    }  # fmt: skip
    if options.of_observatory:
        truth["options"]["references"] = options.references
    asdf.AsdfFile({"truth": truth}).write_to(path)
