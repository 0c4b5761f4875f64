"""Writes the observatory's reference files and one exposure with every condition of its steps.

Runs inside romancal's environment, so that the files have the version of roman_datamodels that it
can read: ``python observatory_inputs.py FOLDER [--side 4096] [--seed 1] [--detector WFI18]``.
Needs 3 GB of memory for a full frame.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

import asdf
import numpy as np
from astropy.modeling import models
from astropy.time import Time
from observatory_exposure import DECAY, DECAY_TIME, OFFSET, expose
from observatory_scene import (
    BAD_REF,
    BORDER,
    CHANNEL,
    DEAD,
    DNU,
    FRAME_TIME,
    NO_FLAT,
    NO_LIN,
    NO_SAT,
    PATTERN,
    REFERENCE,
    C,
    Scene,
    forward,
    inverse,
    nonlinearity,
    weights,
)
from roman_datamodels import datamodels

ELEMENT = "F158"
BAND = 256
FILES = {
    "mask": "Mask", "saturation": "Saturation", "refpix": "Refpix",
    "darkdecaysignal": "Darkdecaysignal", "linearity": "Linearity",
    "inverselinearity": "Inverselinearity", "integralnonlinearity": "Integralnonlinearity",
    "readnoise": "Readnoise", "gain": "Gain", "dark": "Dark", "distortion": "Distortion",
    "photom": "WfiImgPhotom", "flat": "Flat",
}  # fmt: skip
"""Reference type -> model, without RefModel."""
V2, V3 = 1312.95, -1040.77
PIXEL_AREA = 2.844e-13
"""sr"""


def coefficients(scene: Scene, make: Any) -> np.ndarray:
    """Polynomials of all pixels (C, N, N)."""
    n = scene.side
    found = np.empty((C, n, n), np.float32)
    for y in range(0, n, BAND):
        found[:, y : y + BAND] = make(scene.bend[y : y + BAND])
    # The level of an empty well is not known better than this.
    found[0] += 3 * scene.normal(40 + (make is inverse))
    return found


def bad(scene: Scene, array: np.ndarray, edits: dict[str, Any]) -> np.ndarray:
    """`array` with other values where `edits` (name of a condition -> value) says so."""
    border = BORDER if array.shape[-1] == scene.side - 2 * BORDER else 0
    for name, value in edits.items():
        y, x = scene.places[name]
        array[..., y - border, x - border] = value
    return array


def flags(scene: Scene, edits: dict[str, int], border: int = 0) -> np.ndarray:
    """A dq array with these bits where the conditions are, and a few harmless ones."""
    n = scene.side - 2 * border
    dq = np.zeros((n, n), np.uint32)
    for name, bit in edits.items():
        y, x = scene.places[name]
        dq[y - border, x - border] |= np.uint32(bit)
    return dq


def mask(scene: Scene) -> np.ndarray:
    dq = flags(scene, {"dead": DNU | DEAD})
    rng, n = scene.rng(41), scene.side
    edge = np.ones((n, n), bool)
    edge[BORDER:-BORDER, BORDER:-BORDER] = False
    dq[edge] |= np.uint32(REFERENCE)
    dq[edge & (rng.random((n, n), np.float32) < 0.02)] |= np.uint32(BAD_REF)
    y, x = scene.places["bad reference"]  # among the active pixels: a quarter of them
    dq[y[::4], x[::4]] |= np.uint32(BAD_REF)
    return dq


def linearity(scene: Scene) -> dict[str, np.ndarray]:
    coeffs = coefficients(scene, forward)
    y, x = scene.places["nan coefficient"]
    coeffs[np.arange(y.size) % C, y, x] = np.nan
    y, x = scene.places["zero linear term"]
    coeffs[1, y, x] = 0
    y, x = scene.places["huge polynomial"]
    coeffs[2, y, x] = 1
    return {"coeffs": coeffs, "dq": flags(scene, {"no linearity": NO_LIN})}


def inverse_linearity(scene: Scene) -> dict[str, np.ndarray]:
    coeffs = coefficients(scene, inverse)
    y, x = scene.places["nan inverse"]
    coeffs[np.arange(y.size) % C, y, x] = np.nan
    y, x = scene.places["zero inverse"]
    coeffs[1, y, x] = 0
    return {"coeffs": coeffs, "dq": flags(scene, {"inverse flag": NO_LIN | DNU})}


def nonlinearity_tables(detector: str) -> dict[str, Any]:
    """Tables by channel of the science frame, in which every third detector is mirrored."""
    n = 4096 // CHANNEL
    mirrored = int(detector[-2:]) % 3 == 0
    tables = {
        f"science_channel_{c + 1:02d}": {
            "instrument_channel": n - 1 - c if mirrored else c,
            "correction": nonlinearity(c),
        }
        for c in range(n)
    }
    return {"value": np.arange(65536, dtype=np.uint16), "inl_table": tables}


def distortion(scene: Scene) -> Any:
    """From pixels, counted from 0 on the active array, to V2 and V3 in arcseconds."""
    half = (scene.side - 2 * BORDER - 1) / 2
    rng = scene.rng(42)

    def terms(x: float, y: float) -> dict[str, float]:
        higher = {"c2_0": 3e-7, "c1_1": 4e-7, "c0_2": 2e-7, "c3_0": 1e-11, "c0_3": 1e-11}
        return {"c1_0": x, "c0_1": y} | {k: v * rng.uniform(-1, 1) for k, v in higher.items()}

    there = [models.Polynomial2D(3, **terms(*c)) for c in ((0.0951, -0.055), (-0.0552, -0.0948))]
    grid = np.stack(np.meshgrid(*2 * [np.linspace(-half, half, 41)]), -1).reshape(-1, 2)
    v2, v3 = (p(*grid.T) for p in there)
    powers = [(i, j) for i in range(6) for j in range(6 - i)]
    size = half * 0.11
    design = np.stack([(v2 / size) ** i * (v3 / size) ** j for i, j in powers], -1)
    back = []
    for axis in (0, 1):
        found = np.linalg.lstsq(design, grid[:, axis], rcond=None)[0]
        named = {f"c{i}_{j}": v / size ** (i + j) for (i, j), v in zip(powers, found, strict=True)}
        back.append(models.Polynomial2D(5, **named))
    both = models.Mapping((0, 1, 0, 1))
    to_middle = models.Shift(-half) & models.Shift(-half)
    to_aperture = models.Shift(V2) & models.Shift(V3)
    transform = to_middle | both | there[0] & there[1] | to_aperture
    transform.inverse = to_aperture.inverse | both | back[0] & back[1] | to_middle.inverse
    return transform


def photometry() -> dict[str, dict[str, Any]]:
    wavelength, area = np.array([1.0, 1.5, 2.0], np.float32), np.ones(3, np.float32)
    table = {
        element: {
            "photmjsr": 0.5 + 0.1 * i, "uncertainty": 0.01, "pixelareasr": PIXEL_AREA,
            "collecting_area": 3.6, "wavelength": wavelength, "effective_area": area,
        }
        for i, element in enumerate(("F062", "F087", "F106", "F129", "F146", ELEMENT, "F184"))
    }  # fmt: skip
    nothing: dict[str, Any] = dict.fromkeys(("photmjsr", "uncertainty", "pixelareasr"))
    nothing |= {k: table[ELEMENT][k] for k in ("collecting_area", "wavelength", "effective_area")}
    return table | {"GRISM": nothing, "PRISM": nothing}


def reference(key: str, scene: Scene, detector: str) -> dict[str, Any]:
    """What a reference file holds beside its metadata."""
    n = scene.side
    if key == "mask":
        return {"dq": mask(scene)}
    if key == "saturation":
        edits = {"nan threshold": np.nan, "low threshold": 3000.0}
        dq = flags(scene, {"no threshold": NO_SAT})
        return {"data": bad(scene, scene.threshold.copy(), edits), "dq": dq}
    if key == "refpix":
        return dict(zip(("gamma", "zeta", "alpha"), weights(n, scene.seed), strict=True))
    if key == "darkdecaysignal":
        decay: dict[str, Any] = {
            f"WFI{i:02d}": {"amplitude": DECAY, "time_constant": DECAY_TIME} for i in range(1, 19)
        }
        nothing = {"amplitude": None, "time_constant": None}
        return {"decay_table": decay | {"WFI09" if detector != "WFI09" else "WFI08": nothing}}
    if key == "linearity":
        return linearity(scene)
    if key == "inverselinearity":
        return inverse_linearity(scene)
    if key == "integralnonlinearity":
        return nonlinearity_tables(detector)
    if key == "readnoise":
        return {"data": scene.noise}
    if key == "gain":
        edits = {"nan gain": np.nan, "zero gain": 0.0, "negative gain": -1.8}
        return {"data": bad(scene, scene.gain.copy(), edits)}
    if key == "dark":
        slope = bad(scene, scene.dark.copy(), {"nan dark": np.nan})
        dq = flags(scene, {"dark flag": 1 << 11, "nan dark": DNU})
        return {"dark_slope": slope, "dark_slope_error": np.full_like(slope, 1e-3), "dq": dq}
    if key == "flat":
        edits = {"nan flat": np.nan, "zero flat": 0.0, "negative flat": -0.5, "no flat": 0.7}
        data = bad(scene, scene.flat.copy(), edits)
        dq = flags(scene, {"no flat": NO_FLAT, "flat flag": 1 << 13}, BORDER)
        return {"data": data, "dq": dq, "err": np.full_like(data, 5e-3)}
    if key == "distortion":
        return {"coordinate_distortion_transform": distortion(scene)}
    return {"phot_table": photometry()}


def write_reference(path: Path, key: str, scene: Scene, detector: str) -> None:
    """A file as the observatory has it, checked against its schema."""
    model = getattr(datamodels, f"{FILES[key]}RefModel").create_fake_data()
    for name, value in reference(key, scene, detector).items():
        model[name] = value
    meta = model["meta"]
    meta["instrument"]["detector"] = detector
    if "optical_element" in meta["instrument"]:
        meta["instrument"]["optical_element"] = ELEMENT
    meta["pedigree"], meta["useafter"] = "DUMMY", Time("2020-01-01T00:00:00.000")
    for name in ("author", "description"):
        meta[name] = "simulated for a comparison of programs"
    if key == "integralnonlinearity":
        meta["n_channels"], meta["n_pixels_per_channel"] = 4096 // CHANNEL, 4096 * CHANNEL
    save(model, path)


def save(model: Any, path: Path) -> None:
    model.validate()
    asdf.AsdfFile({"roman": model._instance}).write_to(path, all_array_compression=None)


def write_exposure(path: Path, scene: Scene, detector: str) -> None:
    exposed = expose(scene, detector == "WFI18")
    n = scene.side
    model = datamodels.ScienceRawModel.create_fake_data(shape=(1, 8, 8))
    for name, value in vars(exposed).items():
        model[name] = value
    meta = model["meta"]
    meta["filename"] = path.name
    meta["instrument"] |= {"detector": detector, "optical_element": ELEMENT}
    meta["instrument"]["data_encoding_offset"] = OFFSET
    seconds = PATTERN[-1][-1] * FRAME_TIME
    start = Time("2027-06-01T00:00:00.000")
    meta["exposure"] |= {
        "read_pattern": PATTERN, "nresultants": len(PATTERN), "frame_time": FRAME_TIME,
        "exposure_time": seconds, "effective_exposure_time": seconds, "ma_table_number": 1,
        "start_time": start, "end_time": Time("2027-06-01T00:01:54.000"),
    }  # fmt: skip
    meta["guide_star"] |= {
        "window_xstart": 3 * n // 8, "window_xstop": 3 * n // 8 + 16,
        "window_ystart": n // 2 + 5, "window_ystop": n // 2 + 21,
    }  # fmt: skip
    meta["wcsinfo"] |= {
        "aperture_name": f"{detector}_FULL", "v2_ref": V2, "v3_ref": V3, "vparity": -1,
        "v3yangle": -60.0, "ra_ref": 269.9, "dec_ref": 66.0, "roll_ref": 59.5,
    }  # fmt: skip
    meta["velocity_aberration"] |= {
        "ra_reference": 269.9, "dec_reference": 66.0, "scale_factor": 1.00004
    }  # fmt: skip
    meta["pointing"] |= {"ra_v1": 270.0, "dec_v1": 66.5, "target_ra": 269.9, "target_dec": 66.0}
    save(model, path)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--side", type=int, default=4096)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--detector", default="WFI18")
    args = parser.parse_args()
    args.folder.mkdir(parents=True, exist_ok=True)
    began = time.perf_counter()
    scene = Scene(args.side, args.seed)
    for key in FILES:
        write_reference(args.folder / f"{key}.asdf", key, scene, args.detector)
        print(f"{key} {time.perf_counter() - began:.0f} s", flush=True)
    write_exposure(args.folder / "l1.asdf", scene, args.detector)
    print(f"l1 {time.perf_counter() - began:.0f} s", flush=True)
    places = {name: np.stack(place).tolist() for name, place in scene.places.items()}
    (args.folder / "places.json").write_text(json.dumps(places))
    return 0


if __name__ == "__main__":
    sys.exit(main())
