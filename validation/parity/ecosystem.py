"""What others do with our files: steps of romancal, older versions, PyIMCOM's reader of layers.

Called by `run.py`. romancal gets an environment of its own, with this program in it: files are
written with the same version of roman_datamodels that the mission's steps read them with. PyIMCOM
gets another one, of a newer Python; where there is none, what needs it is not run and says so.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import asdf
import numpy as np
import yaml
from file_versions import version_checks
from package import ROOT, say

PACKAGE = "romancal==1.1.0"
PYIMCOM = "pyimcom==1.2.1"
NEWER = (3, 12)
"""The Python that PyIMCOM needs, or a later one."""
INSTALLING, READING = 1200.0, 300.0
"""Seconds to wait for an installation of PyIMCOM, and for its reader."""
CATALOGUE = "romancal_catalogue.py"
CATALOGUE_SUMS = ("aper08_flux", "aper08_flux_err")
APERTURE = 0.8 / 0.11
"""Radius (pixels) of the aperture of 0.8 arcsec."""
NANOJANSKY = 1e15
"""nJy in a MJy."""
SYSTEMATIC = 0.005
"""Of the light: what sources around and edges of pixels leave open."""
LABELS = ["RS2", "PbS2"]
OBS, SCA, FILTER = 1, 2, "H158"
NAME = f"sim_L2_{FILTER}_{OBS}_{SCA}"
"""As PyIMCOM looks for it; the filter has PyIMCOM's name."""


def environment(venv: Path) -> Path:
    """romancal and this program, from its present source."""
    python = venv / "bin" / "python"
    stamp = venv / "installed.txt"
    pip = [python, "-m", "pip", "install", "-q", "--disable-pip-version-check"]
    wanted = f"{PACKAGE}\n{(ROOT / 'pyproject.toml').read_text()}"
    if not stamp.is_file() or stamp.read_text() != wanted:
        say(f"installing {PACKAGE} into {venv}")
        subprocess.run([sys.executable, "-m", "venv", "--clear", venv], check=True)
        subprocess.run([*pip, PACKAGE, "-e", str(ROOT)], check=True)
        stamp.write_text(wanted)
    return python


def calibrated(folder: Path, python: Path) -> Path:
    """A small exposure, calibrated, with noise layers, named as PyIMCOM wants it."""
    command = [str(python), "-W", "ignore", "-m", "roman_dask_l2"]
    subprocess.run(
        [*command, "simulate", str(folder), "--side", "512", "--quiet"], check=True, cwd=ROOT
    )
    config = folder / "config.yaml"
    settings = yaml.safe_load(config.read_text()) | {
        "OUT": f"{NAME}.asdf",
        "NOISE": {"LAYER": LABELS, "TEMP": ".", "SEED": 3, "OUT": f"{NAME}_noise.asdf"},
    }
    config.write_text(yaml.safe_dump(settings))
    subprocess.run([*command, str(config), "--quiet"], check=True, cwd=ROOT)
    return folder / settings["OUT"]


def observatory_image(folder: Path, python: Path) -> Path:
    """A small exposure with the observatory's reference files, calibrated by its recipe."""
    command = [str(python), "-W", "ignore", "-m", "roman_dask_l2"]
    options = ["--side", "512", "--references", "observatory", "--quiet"]
    subprocess.run([*command, "simulate", str(folder), *options], check=True, cwd=ROOT)
    config = folder / "config.yaml"
    subprocess.run([*command, str(config), "--quiet", "--no-noise"], check=True, cwd=ROOT)
    return folder / yaml.safe_load(config.read_text())["OUT"]


def check_ecosystem(folder: Path) -> tuple[int, list[str]]:
    """Try everything that can be tried: how much that is, and what has failed."""
    python = environment(folder / "romancal")
    image = calibrated(folder / "ecosystem", python)
    checks = {**romancal_checks(image, python), **layer_checks(image)}
    other = observatory_image(folder / "observatory-small", python)
    for name, passed in (romancal_checks(other, python) | catalogue_checks(other, python)).items():
        checks[f"recipe observatory: {name}"] = passed
    checks |= version_checks(folder / "versions", python)
    checks |= pyimcom_checks(folder / "pyimcom", image)
    for name, ok in checks.items():
        say(f"{'ok    ' if ok else 'FAILED'} {name}")
    return len(checks), [name for name, ok in checks.items() if not ok]


def romancal_checks(image: Path, python: Path) -> dict[str, bool]:
    """The mission's flux, sky and resampling steps, beside what they must give."""
    out = image.with_name("romancal.npz")
    log = image.with_name("romancal.log")
    with open(log, "w") as file:
        program = Path(__file__).with_name("romancal_steps.py")
        done = subprocess.run(
            [python, program, image, out], stdout=file, stderr=file, cwd=image.parent
        )
    if done.returncode:
        say(log.read_text()[-2000:])
        return {"romancal opens the Level-2 file and its steps run": False}
    found = json.loads(Path(f"{out}.json").read_text())
    with asdf.open(image, lazy_load=True) as file:
        roman = file["roman"]
        data, err = np.array(roman["data"]), np.array(roman["err"])
        dq = np.array(roman["dq"])
        factor = roman["meta"]["photometry"]["conversion_megajanskys"]
    made = np.load(out)
    level = float(np.median(data[(dq & 1) == 0]))
    spread = float(np.std(data[(dq & 1) == 0])) / np.sqrt(data.size)
    return {
        "romancal opens the Level-2 file as a valid ImageModel": found["model"] == "ImageModel"
        and tuple(found["shape"]) == data.shape,
        "romancal's FluxStep multiplies data and err by the conversion": (
            found["flux"]["step"] == "COMPLETE"
            and np.allclose(made["flux"], data * factor, rtol=1e-6, atol=0, equal_nan=True)
            and np.allclose(made["flux_err"], err * factor, rtol=2e-3, atol=0, equal_nan=True)
        ),
        "romancal's SkyMatchStep finds the level of the background": (
            found["sky"]["step"] == "COMPLETE" and abs(found["sky"]["level"] - level) < 5 * spread
        ),
        "romancal's ResampleStep makes a mosaic with the stars where and as bright as they are": (
            found["resample"]["model"] == "MosaicModel"
            and found["resample"]["step"] == "COMPLETE"
            and found["resample"]["stars"] >= 10
            and found["resample"]["offset"] < 0.02
            and abs(found["resample"]["ratio"] - 1) < 0.01
        ),
    }


def catalogue_checks(image: Path, python: Path) -> dict[str, bool]:
    """The mission's source catalogue, beside the stars that were simulated."""
    names = [
        "romancal's SourceCatalogStep finds the stars, where they are on the sky",
        "romancal's SourceCatalogStep measures as much light as there is",
    ]
    out, program = image.with_name("catalogue.npz"), Path(__file__).with_name(CATALOGUE)
    out.unlink(missing_ok=True)
    command = [python, "-W", "ignore", program, image, out]
    done = subprocess.run(command, capture_output=True, text=True, cwd=image.parent)
    if done.returncode:
        say((done.stdout + done.stderr)[-2000:])
        return dict.fromkeys(names, False)
    with asdf.open(image) as file, asdf.open(image.with_name("truth.asdf")) as simulated:
        meta, truth = file["roman"]["meta"], np.array(simulated["truth"]["rate"], float)
        factor = meta["photometry"]["conversion_megajanskys"] * meta["photometry"]["pixel_area"]
        found = dict(np.load(out))
        x, y = found["x_centroid"], found["y_centroid"]
        ra, dec = meta["wcs"](x, y)
    off = np.hypot(
        (found["ra_centroid"] - ra) * np.cos(np.radians(dec)), found["dec_centroid"] - dec
    )
    # MJy / sr to nJy; what has a bad pixel has a warning or no sum.
    light, error = (found[name] / (factor * NANOJANSKY) for name in CATALOGUE_SUMS)
    whole = (found["warning_flags"] == 0) & np.isfinite(light)
    whole &= (np.minimum(x, y) > APERTURE) & (np.maximum(x, y) < len(truth) - 1 - APERTURE)
    places = [star_in(truth, *place) for place in zip(x[whole], y[whole], strict=True)]
    total, shift = np.transpose(places)
    pull = (light[whole] - total) / np.hypot(error[whole], SYSTEMATIC * total)
    say(
        f"catalogue: {len(x)} sources, {whole.sum()} of them whole; off by {np.median(shift):.4f} "
        f"pixels, light {np.median(light[whole] / total):.4f}, scatter {np.std(pull):.2f} sigma"
    )
    passed = (
        whole.sum() >= 15 and off.max() < 1e-4 * 0.11 / 3600 and np.median(shift) < 0.05,
        abs(np.median(light[whole] / total) - 1) < 0.01 and np.std(pull) < 3,
    )
    return dict(zip(names, map(bool, passed), strict=True))


def star_in(truth: np.ndarray, x: float, y: float) -> tuple[float, float]:
    """Light above the sky in the catalogue's largest aperture around a place, and how far from
    there its brightest part has its centre."""
    part = (np.arange(5) + 0.5) / 5 - 0.5  # a pixel counts by its share of the aperture
    rows, columns = np.indices(truth.shape)
    inside = np.mean(
        [np.hypot(columns + dx - x, rows + dy - y) < APERTURE for dx in part for dy in part], axis=0
    )
    above = truth - np.median(truth)
    core = above * (np.hypot(columns - x, rows - y) < 3)
    cx, cy = (float((core * at).sum() / core.sum()) for at in (columns, rows))
    return float((above * inside).sum()), float(np.hypot(cx - x, cy - y))


def layer_checks(image: Path) -> dict[str, bool]:
    """Files as PyIMCOM's manual describes its input format L2_2506, read as it says."""
    noise = image.with_name(image.stem + "_noise.asdf")
    with asdf.open(image, lazy_load=True) as file:
        data = np.array(file["roman"]["data"])
        wcs = file["roman"]["meta"]["wcs"]
        sky = wcs(np.arange(3.0), np.arange(3.0))
        back = wcs.invert(*sky)
    layers = {}
    with asdf.open(noise, lazy_load=True) as file:
        for label in LABELS:  # "noise,<label>" in EXTRAINPUT
            index = file["config"]["NOISE"]["LAYER"].index(label)
            layers[label] = np.array(file["noise"][index, :, :])
    return {
        "PyIMCOM's image: roman.data and a gwcs that has an inverse": data.ndim == 2
        and np.allclose(back, np.arange(3.0), atol=1e-3),
        "PyIMCOM's layers: noise[config.NOISE.LAYER.index(label)]": all(
            layer.shape == data.shape and np.isfinite(layer).all() and layer.std() > 0
            for layer in layers.values()
        ),
    }


def newer_pythons() -> list[str]:
    """Interpreters that PyIMCOM may run on and that can make environments, the oldest first."""
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    names = ["python3", *(f"python3.{minor}" for minor in range(NEWER[1], NEWER[1] + 6))]
    places = [sys.executable, *(shutil.which(name) for name in names)]
    places += sorted(str(path) for path in pyenv.glob("*/bin/python3"))
    probe = "import ensurepip, sys, venv; print(*sys.version_info[:3])"
    found: dict[tuple[int, ...], str] = {}
    for place in filter(None, places):
        try:
            said = subprocess.run([place, "-c", probe], capture_output=True, text=True, timeout=60)
        except (OSError, subprocess.TimeoutExpired):
            continue
        if said.returncode == 0:
            found.setdefault(tuple(int(part) for part in said.stdout.split()), place)
    return [found[version] for version in sorted(found) if version >= NEWER]


def pyimcom_environment(venv: Path) -> tuple[Path | None, str]:
    """PyIMCOM in an environment of its own: its Python, or None and why there is none."""
    python, stamp = venv / "bin" / "python", venv / "installed.txt"
    if stamp.is_file() and stamp.read_text() == PYIMCOM:
        return python, ""
    why = f"no Python {NEWER[0]}.{NEWER[1]} or newer was found"
    for newer in newer_pythons():
        say(f"installing {PYIMCOM} into {venv}, with {newer}")
        pip = [python, "-m", "pip", "install", "-q", "--disable-pip-version-check", PYIMCOM]
        try:
            for command in ([newer, "-m", "venv", "--clear", venv], pip):
                subprocess.run(
                    command, check=True, capture_output=True, text=True, timeout=INSTALLING
                )
        except subprocess.TimeoutExpired:
            why = f"{PYIMCOM} was not installed within {INSTALLING:.0f} s"
        except subprocess.CalledProcessError as error:
            last = (error.stderr.strip().splitlines() or ["no message"])[-1]
            why = f"{PYIMCOM} cannot be installed with {newer}: {last}"
        else:
            stamp.write_text(PYIMCOM)
            return python, ""
    return None, why


def pyimcom_checks(venv: Path, image: Path) -> dict[str, bool]:
    """PyIMCOM's own `get_all_data`, mask and coordinates, beside what is in the files."""
    python, why = pyimcom_environment(venv)
    if python is None:
        say(f"not run: PyIMCOM's own reader; {why}")
        return {}
    with asdf.open(image, lazy_load=True) as file:
        wanted = [np.array(file["roman"]["data"])]
        good = ~np.array(file["mask"])
        side = len(good)
        x, y = (np.linspace(0, side - 1, 5), np.linspace(side - 1, 3, 5))
        sky = file["roman"]["meta"]["wcs"](x, y)
    with asdf.open(image.with_name(f"{NAME}_noise.asdf"), lazy_load=True) as file:
        wanted += list(np.array(file["noise"]))
    asked = {
        "filter": FILTER, "obs": OBS, "sca": SCA, "side": side, "x": x.tolist(), "y": y.tolist(),
        "layers": [f"noise,{label}" for label in LABELS],
    }  # fmt: skip
    out, program = image.with_name("pyimcom.npz"), Path(__file__).with_name("pyimcom_layers.py")
    out.unlink(missing_ok=True)
    command = [python, "-W", "ignore", program, image.parent, out, json.dumps(asked)]
    names = [
        "PyIMCOM's get_all_data finds the image and its noise layers, bit for bit",
        "PyIMCOM's mask is ours",
        "PyIMCOM's coordinates are ours to a millionth of a pixel",
    ]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=READING)
        said = done.stdout + done.stderr
    except subprocess.TimeoutExpired:
        said = f"no answer within {READING:.0f} s"
    if not out.is_file():
        say(said[-2000:])
        return dict.fromkeys(names, False)
    made = np.load(out)
    off = np.hypot((made["ra"] - sky[0]) * np.cos(np.radians(sky[1])), made["dec"] - sky[1])
    passed = (
        np.array_equal(made["layers"], np.array(wanted)),
        np.array_equal(made["good"], good),
        float(off.max()) < 1e-6 * 0.11 / 3600,
    )
    return dict(zip(names, passed, strict=True))


if __name__ == "__main__":
    target = Path(sys.argv[1] if sys.argv[1:] else ROOT / "out" / "parity").resolve()
    target.mkdir(parents=True, exist_ok=True)
    sys.exit(bool(check_ecosystem(target)[1]))
