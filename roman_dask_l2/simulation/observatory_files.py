"""Reference files by the observatory's schemas, of a simulated detector."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ..core.detector import BORDER, CHANNEL_WIDTH, OMEGA_IDEAL, PADDED_WIDTH
from ..core.dq import PIXEL
from .detector import share_between_pixels
from .observatory_detector import VALUES, PolynomialPixels, ReadByRead, linear_coefficients
from .observatory_pointing import make_distortion
from .options import Options
from .readout import add_border
from .settings import DARK_DECAY, GAIN, OBSERVATORY_FLAGS, OBSERVATORY_NAN_ARRAYS, Run

MODELS = {
    "mask": "MaskRefModel",
    "saturation": "SaturationRefModel",
    "refpix": "RefpixRefModel",
    "darkdecaysignal": "DarkdecaysignalRefModel",
    "linearity": "LinearityRefModel",
    "inverselinearity": "InverselinearityRefModel",
    "integralnonlinearity": "IntegralnonlinearityRefModel",
    "readnoise": "ReadnoiseRefModel",
    "gain": "GainRefModel",
    "dark": "DarkRefModel",
    "flat": "FlatRefModel",
    "photom": "WfiImgPhotomRefModel",
    "distortion": "DistortionRefModel",
}
"""Reference type -> the model of roman_datamodels."""
KEY = "readnoise"
"""The reference file that says what it was simulated with."""
USE_AFTER = "2020-01-01T00:00:00"
DARK_ERROR = 0.02
"""Error of the dark current, as a fraction of it."""
FLAT_ERROR = 0.002
MEGAJANSKYS, MEGAJANSKYS_ERROR = 0.55, 0.01
"""MJy/sr per DN/s."""
FILTERS = ("F062", "F087", "F106", "F129", "F146", "F158", "F184", "F213")
DETECTORS = [f"WFI{i:02d}" for i in range(1, 19)]


def make_observatory_references(
    options: Options, run: Run, pixels: PolynomialPixels, parts: ReadByRead
) -> Iterator[tuple[str, dict[str, Any]]]:
    """(reference type, tree without meta) of the reference files, one after another."""

    def dq(key: str, border: int = 0) -> np.ndarray:
        flags = add_border(np.zeros((run.n, run.n), np.uint32), border)
        for (file, condition), values in OBSERVATORY_FLAGS.items():
            if file == key:
                run.put(flags, condition, [sum(PIXEL[flag] for flag in v) for v in values])
        return flags

    yield "mask", {"dq": dq("mask", PIXEL["REFERENCE_PIXEL"])}
    threshold = add_border(pixels.threshold, 55000)
    run.put(threshold, "no_sat_check", [np.nan, 55000.0])
    yield "saturation", {"data": threshold, "dq": dq("saturation")}
    gamma, zeta, alpha = reference_weights(run)
    yield "refpix", {"gamma": gamma, "zeta": zeta, "alpha": alpha}
    if options.has_dark_decay:
        yield "darkdecaysignal", {"decay_table": {d: dict(DARK_DECAY) for d in DETECTORS}}
    coeffs = identity(ORDER_OF["linearity"], run.side)
    coeffs[:, BORDER:-BORDER, BORDER:-BORDER] = linear_coefficients(pixels.curvature)
    yield "linearity", {"coeffs": coeffs, "dq": dq("linearity", PIXEL["REFERENCE_PIXEL"])}
    coeffs = identity(ORDER_OF["inverselinearity"], run.side)
    coeffs[:, BORDER:-BORDER, BORDER:-BORDER] = pixels.inverse
    yield "inverselinearity", {"coeffs": coeffs, "dq": dq("inverselinearity")}
    yield (
        "integralnonlinearity",
        {
            "value": np.arange(VALUES).astype(np.uint16),
            "inl_table": {
                f"science_channel_{i:02d}": {"instrument_channel": i - 1, "correction": table}
                for i, table in enumerate(parts.nonlinearity, 1)
            },
        },
    )
    yield "readnoise", {"data": parts.read}
    gain = add_border(pixels.gain, GAIN)
    run.put(gain, "gain", [0.0, np.nan, -0.5])
    yield "gain", {"data": gain}
    slope = add_border(parts.dark_slope, 0)
    tree = {"dark_slope": slope, "dark_slope_error": np.float32(DARK_ERROR) * slope}
    yield "dark", tree | {"dq": dq("dark")}
    # counts in DN of a uniform light: response and area as they are, IPC if there is any, gain;
    # without a border
    flat = pixels.response * pixels.area * np.float32(GAIN)
    run.put(flat, "dead", [0.0])
    if options.has_ipc:
        flat = share_between_pixels(run, pixels.kernel, flat)
    flat /= pixels.gain
    error = np.float32(FLAT_ERROR) * flat
    run.put(flat, "flat", [np.nan, 0.0, -1.0, 1.0])
    inside = np.s_[BORDER:-BORDER, BORDER:-BORDER]
    yield "flat", {"data": flat, "dq": dq("flat")[inside].copy(), "err": error}
    yield "photom", {"phot_table": {element: photometry() for element in FILTERS}}
    yield "distortion", {"coordinate_distortion_transform": make_distortion(run.side)}


ORDER_OF = {"linearity": 8, "inverselinearity": 4}
"""Coefficients of the polynomials."""


def identity(terms: int, side: int) -> np.ndarray:
    """Coefficients of the polynomial that changes nothing, for all pixels."""
    coeffs = np.zeros((terms, side, side), np.float32)
    coeffs[1] = 1
    return coeffs


def photometry() -> dict[str, Any]:
    """An entry of the photometric table; all filters have the same numbers."""
    return {
        "photmjsr": MEGAJANSKYS,
        "uncertainty": MEGAJANSKYS_ERROR,
        "pixelareasr": float(OMEGA_IDEAL),
        "collecting_area": 3.8,
        "wavelength": np.linspace(1.3, 1.8, 6, dtype=np.float32),
        "effective_area": np.linspace(1.0, 2.0, 6, dtype=np.float32),
    }


def reference_weights(run: Run) -> tuple[np.ndarray, ...]:
    """Weights of left border, right border and reference output that leave the least 1/f noise.

    Returns
    -------
    gamma, zeta, alpha : (channels, 70 N + 1) complex128 ndarray
        The Wiener filter for the noise that the simulator draws. Noise is by cycles per frame k:
        1/f noise has the power 1/(2 k), white noise of a samples' variance s the power s / L, of
        which the border's four samples of a row, 140/4 times each, make 35 times as much. Beyond
        one cycle per two rows the borders tell nothing.
    """
    noise, channels = run.noise, run.side // CHANNEL_WIDTH
    length = run.side * PADDED_WIDTH
    # The line through the border rows moves the mean, k = 0, as much as the slowest wave.
    k = np.maximum(np.arange(length // 2 + 1), 1)
    pink, white = 0.5 / k, 1.0 / length
    u, c, ru = (noise[name] ** 2 * pink for name in ("U_PINK", "C_PINK", "RU_PINK"))
    m, few = noise["M_PINK"], PADDED_WIDTH / BORDER
    border = u + c + few * noise["read"] ** 2 * white
    output = m**2 * c + ru + noise["amp33"] ** 2 * white
    one = np.where(k < run.side / 2, 1.0, 0.0)  # borders tell something
    weights = np.zeros((3, channels, length // 2 + 1), np.complex128)
    for channel in range(channels):
        own = [u * (channel == 0), u * (channel == channels - 1)]
        covariance = np.empty((k.size, 3, 3))
        covariance[:, 0, 0] = covariance[:, 1, 1] = border
        covariance[:, 2, 2] = output
        both = c + (u if channels == 1 else 0)
        covariance[:, 0, 1] = covariance[:, 1, 0] = one * both
        covariance[:, :2, 2] = covariance[:, 2, :2] = (one * m * c)[:, None]
        known = np.stack([one * (c + own[0]), one * (c + own[1]), m * c], -1)
        solved = _solve(covariance, known)
        weights[:, channel] = solved.T
    return tuple(weights)


def _solve(covariance: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Solutions of many small systems; nothing of what has no noise at all."""
    tiny = np.finfo(float).tiny ** 0.5
    covariance = covariance + np.where(np.eye(3) > 0, tiny, 0.0)
    solved: np.ndarray = np.linalg.solve(covariance, known[..., None])[..., 0]
    return solved


def write_observatory_reference(
    path: Path, tree: dict[str, Any], options: Options, about: dict[str, Any] | None
) -> None:
    """Write one reference file with the model of roman_datamodels, which checks it."""
    from astropy.time import Time
    from roman_datamodels import datamodels

    key = path.stem
    model = getattr(datamodels, MODELS[key]).create_fake_data()
    for name, value in tree.items():
        model[name] = value
    meta = model["meta"]
    meta["author"], meta["origin"] = "roman-dask-l2", "STSCI"
    meta["description"] = f"simulated {key} reference, {options.side} x {options.side} pixels"
    meta["pedigree"] = "SIMULATION"
    meta["useafter"] = Time(USE_AFTER, format="isot", scale="utc")
    meta["instrument"]["detector"] = options.detector
    if "optical_element" in meta["instrument"]:
        meta["instrument"]["optical_element"] = options.optical_element
    if key == "integralnonlinearity":
        meta["n_channels"], meta["n_pixels_per_channel"] = len(tree["inl_table"]), CHANNEL_WIDTH
    if about is not None:
        meta["simulation"] = about
    model.validate()
    model.save(path)


def put_nans(run: Run, key: str, tree: dict[str, Any]) -> None:
    """Put NaN into arrays of a reference file where the condition asks for it."""
    places = run.at("nan_reference")
    for (file, name), (y, x) in zip(OBSERVATORY_NAN_ARRAYS, places, strict=False):
        if file == key:
            shift = BORDER if tree[name].shape[-1] == run.n else 0
            tree[name] = tree[name].copy()
            tree[name][..., y - shift, x - shift] = np.nan
