"""Files written with one roman_datamodels, opened with another: which go together.

romancal 1.1 needs roman_datamodels 1.1; this program works with that and with newer ones. What
``docs/others.md`` says about it is tried here, both ways.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import yaml
from package import ROOT, say

OPEN = """
import json, sys
import roman_datamodels
from roman_datamodels import datamodels
found = {"version": roman_datamodels.__version__}
for name, path in json.loads(sys.argv[1]).items():
    try:
        with datamodels.open(path) as model:
            model.validate()
            found[name] = type(model).__name__
    except Exception as error:
        found[name] = type(error).__name__
print(json.dumps(found))
"""
REFERENCE = """
import sys
from roman_datamodels import datamodels
datamodels.GainRefModel.create_fake_data(shape=(8, 8)).save(sys.argv[1])
"""
EXPECTED = {"l1": "ScienceRawModel", "l2": "ImageModel", "gain": "GainRefModel"}


def version_checks(folder: Path, older: Path) -> dict[str, bool]:
    """Both ways between the environment of romancal and that of this program.

    Parameters
    ----------
    folder : Path
        Where to work.
    older : Path
        The Python of romancal's environment, which has this program as well.
    """
    newer = Path(sys.executable)
    made = {python: _made(folder / name, python) for name, python in (("1", older), ("2", newer))}
    old = _opened(older, made[older])["version"]
    new = _opened(newer, made[newer])["version"]
    if old.split(".")[:2] == new.split(".")[:2]:
        say(f"both environments have roman_datamodels {old}, two versions are needed")
        return {"two versions of roman_datamodels": False}
    forward = _opened(newer, made[older])
    back = _opened(older, made[newer])
    taken = _calibrated(newer, made[older]["l1"].with_name("other.yaml"))
    refused = _calibrated(older, made[newer]["l1"].with_name("other.yaml"))
    lines = refused.stderr.strip().splitlines()
    if refused.returncode != 2:
        say(refused.stderr[-2000:])
    return {
        f"roman_datamodels {new} opens the files of {old}": all(
            forward[name] == kind for name, kind in EXPECTED.items()
        ),
        f"with roman_datamodels {new} we calibrate an exposure of {old}": taken.returncode == 0,
        f"roman_datamodels {old} opens the reference files of {new}": (
            back["gain"] == EXPECTED["gain"]
        ),
        f"roman_datamodels {old} does not open Level 1 and Level 2 files of {new}": (
            back["l1"] == back["l2"] == "TypeError"
        ),
        f"with roman_datamodels {old} we say in one line that an exposure of {new} is too new": (
            refused.returncode == 2
            and sum("the tag" in line and "roman_datamodels" in line for line in lines) == 1
            and "Traceback" not in refused.stderr
        ),
    }


def _made(folder: Path, python: Path) -> dict[str, Path]:
    """A small exposure, its references and its calibrated image; and ``other.yaml``, with another
    output."""
    command = [python, "-W", "ignore", "-m", "roman_dask_l2"]
    subprocess.run([*command, "simulate", folder, "--side", "256", "--quiet"], check=True, cwd=ROOT)
    config = folder / "config.yaml"
    settings = yaml.safe_load(config.read_text())
    (folder / "other.yaml").write_text(yaml.safe_dump(settings | {"OUT": "other.asdf"}))
    subprocess.run([*command, config, "--quiet", "--no-noise"], check=True, cwd=ROOT)
    gain = folder / "gain.asdf"
    subprocess.run([python, "-W", "ignore", "-c", REFERENCE, gain], check=True)
    return {"l1": folder / settings["IN"], "l2": folder / settings["OUT"], "gain": gain}


def _opened(python: Path, files: dict[str, Path]) -> dict[str, str]:
    """What each file is there, or the name of the error."""
    asked = json.dumps({name: str(path) for name, path in files.items()})
    command = [python, "-W", "ignore", "-c", OPEN, asked]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def _calibrated(python: Path, config: Path) -> subprocess.CompletedProcess[str]:
    command = [python, "-W", "ignore", "-m", "roman_dask_l2", config, "--quiet", "--no-noise"]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
