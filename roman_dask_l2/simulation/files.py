"""Files of a simulated exposure: Level 1, references, configuration."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import asdf
import numpy as np

from ..core.dq import PIXEL
from ..core.reference_types import REFTYPES
from .detector import LegendrePixels, share_between_pixels
from .expose import Exposed
from .observatory_pointing import make_wcsinfo
from .options import Options
from .readout import Electronics, add_border
from .settings import FLAGS_BY_CONDITION, GAIN, PACKED, UNITS, Run
from .wcs import wcs_cards

NO_ABERRATION = {"scale_factor": 1.0}


def make_references(
    run: Run, pixels: LegendrePixels, parts: Electronics, amp33: bool
) -> Iterator[Any]:
    """(key, tree) of the reference files, one after another."""

    def dq(key: str) -> np.ndarray:
        inner = PIXEL["REFERENCE_PIXEL"] if key in ("mask", "linearitylegendre") else 0
        flags = add_border(np.zeros((run.n, run.n), np.uint32), inner)
        for (file, condition), values in FLAGS_BY_CONDITION.items():
            if file == key:
                run.put(flags, condition, [sum(PIXEL[flag] for flag in v) for v in values])
        return flags

    yield "dark", {"dark_slope": add_border(parts.dark_slope, 0), "dq": dq("dark")}
    threshold = add_border(pixels.threshold, 55000)
    run.put(threshold, "no_sat_check", [np.nan, 55000.0])
    yield "saturation", {"data": threshold, "dq": dq("saturation")}
    # counts in DN of a uniform light: response and area as they are, IPC, gain
    flat = pixels.response * pixels.area * np.float32(GAIN)
    run.put(flat, "dead", [0.0])
    flat = add_border(share_between_pixels(run, pixels.kernel, flat) / pixels.gain, 1)
    run.put(flat, "flat", [0.05, 12.0, 0.0, -1.0])
    yield "flat", {"data": flat}
    yield "ipc4d", {"data": pixels.kernel}
    yield "mask", {"dq": dq("mask")}
    gain = add_border(pixels.gain, GAIN)
    run.put(gain, "gain", [0.1, 0.05, 1e-3, -0.5])
    yield "gain", {"data": gain}
    tree: dict[str, Any] = {"data": add_border(pixels.coef, 0), "Sref": add_border(pixels.sref, 0)}
    tree |= {"Smin": add_border(pixels.smin, 0), "Smax": add_border(pixels.smax, 65535)}
    yield "linearitylegendre", tree | {"dq": dq("linearitylegendre")}
    pink = {k: float(v) for k, v in run.noise.items() if k.endswith("PINK")}
    tree = {"data": parts.read, "resetnoise": parts.reset}
    tree["anc"] = {k: pink[k] for k in ("U_PINK", "C_PINK")}
    if amp33:
        tree["amp33"] = {"valid": True, "med": parts.amp33_med, "std": parts.amp33_std}
        tree["amp33"] |= {k: pink[k] for k in ("M_PINK", "RU_PINK")}
    yield "read", tree


def _formatted(name: str, key: str, value: Any, how: set[str]) -> Any:
    """A value of a reference tree with its float arrays as the words of `how` say."""
    if isinstance(value, dict):
        return {k: _formatted(k, key, v, how) for k, v in value.items()}
    if not isinstance(value, np.ndarray) or value.dtype.kind != "f":
        return value
    value = value.astype(np.float64 if "float64" in how else np.float32, copy=False)
    if "big-endian" in how:
        value = value.astype(value.dtype.newbyteorder(">"))
    if "quantity" in how:
        from astropy import units

        return units.Quantity(value, UNITS.get(name, UNITS.get(key, "DN")), copy=False)
    return value


def write_reference(
    path: Path,
    tree: dict[str, Any],
    how: str,
    detector: str,
    optical_element: str,
    about: dict[str, Any] | None = None,
) -> None:
    """Write one reference file, a plain tree under ``roman``, with what it was made with."""
    key, words = path.stem, set(how.split("+"))
    tree = _formatted("", key, tree, words)
    tree["meta"] = {"reftype": REFTYPES[key][0], "telescope": "ROMAN"}
    tree["meta"]["instrument"] = {"name": "WFI", "detector": detector}
    if key == "flat":
        tree["meta"]["instrument"]["optical_element"] = optical_element
    if about is not None:
        tree["meta"]["simulation"] = about
    compression = next(iter(words & PACKED), None)
    asdf.AsdfFile({"roman": tree}).write_to(path, all_array_compression=compression)


def make_level1(options: Options, run: Run, path: Path, exposed: Exposed) -> Any:
    """The exposure as a `ScienceRawModel`, the first resultant taken out if there is an offset."""
    from astropy.time import Time
    from roman_datamodels import datamodels

    model = datamodels.ScienceRawModel.create_fake_data()
    meta, pattern = model["meta"], run.pattern
    data, amp33, offset = exposed.data, exposed.amp33, options.reference_read
    if offset is not None:
        model["reference_read"], model["reference_amp33"] = data[0].copy(), amp33[0].copy()
        meta["instrument"]["data_encoding_offset"] = int(offset)
        pattern = pattern[1:]
        for cube in (data, amp33):
            for plane in cube[1:]:
                plane[:] = np.clip(plane.astype(np.int32) - cube[0] + offset, 0, 65535)
        data, amp33 = data[1:], amp33[1:]
    model["data"], model["amp33"] = data, amp33
    seconds = (pattern[-1][-1] - pattern[0][0]) * run.frame_time
    start, end = (Time(1811808000.0 + t, format="unix", scale="utc") for t in (0, seconds))
    for time_ in (start, end):
        time_.format = "isot"
    exposure = {"read_pattern": pattern, "nresultants": len(pattern), "frame_time": run.frame_time}
    exposure |= {"exposure_time": seconds, "effective_exposure_time": seconds}
    meta["exposure"].update(exposure | {"start_time": start, "end_time": end})
    meta["filename"] = path.name
    cards = wcs_cards(run.side, options.dither)
    ra, dec = cards["CRVAL1"], cards["CRVAL2"]
    meta["pointing"].update({"ra_v1": ra, "dec_v1": dec, "target_ra": ra, "target_dec": dec})
    if options.of_observatory:
        meta["wcsinfo"].update(make_wcsinfo(run.side, options.dither))
        meta["velocity_aberration"].update(
            NO_ABERRATION | {"ra_reference": ra, "dec_reference": dec}
        )
    else:
        meta["wcsinfo"].update({"ra_ref": ra, "dec_ref": dec, "roll_ref": 30.0, "v3yangle": -60.0})
    return model


def make_configuration(options: Options, run: Run, caldir: Mapping[str, Path]) -> dict[str, Any]:
    """What a configuration file for this exposure says, in the exposure's directory."""
    directory, wcs = options.directory, options.wcs or ""
    config: dict[str, Any] = {"IN": "l1.asdf", "OUT": "l2.asdf"}
    config |= {"fits": {"FITSWCS": "wcs.txt"}, "gwcs": {"GWCS": "gwcs.asdf"}}.get(wcs, {})
    config["CALDIR"] = {key: os.path.relpath(path, directory) for key, path in caldir.items()}
    if options.of_observatory:
        return config | {"GRAPH": "observatory", "FITSOUT": True}
    noise = run.noise["read"] or 1.0
    config["RAMP_OPT_PARS"] = {"slope": 0.4, "gain": GAIN, "sigma_read": noise}
    config["JUMP_DETECT_PARS"] = dict(SthreshA=5.5, SthreshB=4.5, IthreshA=1.0, IthreshB=1000.0)
    return config | {"SKYORDER": 2, "FITSOUT": True, "SLICEOUT": True}
