"""What others do with our files: steps of romancal, and PyIMCOM's way to its layers.

Called by `run.py`. romancal gets an environment of its own, with this program in it: files are
written with the same version of roman_datamodels that the mission's steps read them with.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import asdf
import numpy as np
import yaml
from package import ROOT, say

PACKAGE = "romancal==1.1.0"
LABELS = ["RS2", "PbS2"]


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
        "OUT": "sim_L2_H158_1_2.asdf",
        "NOISE": {
            "LAYER": LABELS, "TEMP": ".", "SEED": 3, "OUT": "sim_L2_H158_1_2_noise.asdf",
        },
    }  # fmt: skip
    config.write_text(yaml.safe_dump(settings))
    subprocess.run([*command, str(config), "--quiet"], check=True, cwd=ROOT)
    return folder / settings["OUT"]


def check_ecosystem(folder: Path) -> tuple[int, list[str]]:
    """Try everything: how much that is, and what has failed."""
    python = environment(folder / "romancal")
    image = calibrated(folder / "ecosystem", python)
    checks = {**romancal_checks(image, python), **layer_checks(image)}
    for name, ok in checks.items():
        say(f"{'ok    ' if ok else 'FAILED'} {name}")
    return len(checks), [name for name, ok in checks.items() if not ok]


def romancal_checks(image: Path, python: Path) -> dict[str, bool]:
    """The mission's flux and sky steps, beside what they must give."""
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
            and np.allclose(made["flux"], data * factor, rtol=1e-6, atol=0)
            and np.allclose(made["flux_err"], err * factor, rtol=2e-3, atol=0)
        ),
        "romancal's SkyMatchStep finds the level of the background": (
            found["sky"]["step"] == "COMPLETE" and abs(found["sky"]["level"] - level) < 5 * spread
        ),
    }


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


if __name__ == "__main__":
    target = Path(sys.argv[1] if sys.argv[1:] else ROOT / "parity").resolve()
    target.mkdir(parents=True, exist_ok=True)
    sys.exit(bool(check_ecosystem(target)[1]))
