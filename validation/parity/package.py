"""The package to compare with, in an environment of its own, and an exposure that it can read.

`validation/parity/run.py` and `benchmarks/run.py` share both, and the exposure's folder.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = "romanimpreprocess==1.0.0"
LAYERS = ("Rz4S2C1", "O", "Prb2")


def say(text: str) -> None:
    print(text, flush=True)


def environment(venv: Path) -> Path:
    """The package's own environment: it needs older versions of what we share."""
    python = venv / "bin" / "python"
    stamp = venv / "installed.txt"
    if not stamp.is_file() or stamp.read_text() != PACKAGE:
        say(f"installing {PACKAGE} into {venv}")
        subprocess.run([sys.executable, "-m", "venv", "--clear", venv], check=True)
        pip = [python, "-m", "pip", "install", "-q", "--disable-pip-version-check"]
        subprocess.run([*pip, PACKAGE], check=True)
        stamp.write_text(PACKAGE)
    return python


def run_module(module: str, config: Path, python: Path, name: str) -> None:
    """Run one of the package's programs on a configuration, unless NAME.done says that it was."""
    done = config.with_name(f"{name}.done")
    if not done.is_file():
        began = time.perf_counter()
        with open(config.with_name(f"{name}.log"), "w") as log:
            subprocess.run(
                [python, "-m", module, config.name],
                check=True,
                cwd=config.parent,
                stdout=log,
                stderr=log,
            )
        done.write_text(f"{time.perf_counter() - began:.0f} s\n")
    say(f"{PACKAGE}, {name}: {done.read_text().strip()}")


def simulated(folder: Path, seed: int, python: Path, side: int = 4096) -> Path:
    """An exposure written by the package's versions of asdf and roman_datamodels: files written
    by newer ones it could not read.

    Its mask file does not say that reference pixels are such: then the package counts them in its
    background."""
    config = folder / "config.yaml"
    stamp = folder / "simulated.json"
    sources = sorted((ROOT / "roman_dask_l2" / "simulation").glob("*.py"))
    source = b"".join(path.read_bytes() for path in sources)
    made_by = {"seed": seed, "simulator": len(source), "sum": sum(source)}
    made_by |= {"side": side} if side != 4096 else {}
    made_by |= {"border": "unflagged"}
    if stamp.is_file() and json.loads(stamp.read_text()) == made_by:
        say(f"using the exposure in {folder}")
        return config
    began = time.perf_counter()
    program = (
        "from roman_dask_l2.simulation.simulate import simulate\n"
        f"simulate({str(folder)!r}, side={side}, seed={seed}, conditions='all',\n"
        "    config={'SKYORDER': 2, 'SLICEOUT': True, 'FITSOUT': True, 'OUT': 'package.asdf',\n"
        f"        'NOISE': {{'LAYER': {list(LAYERS)!r}, 'TEMP': {str(folder / 'temp.asdf')!r},\n"
        "            'SEED': 15000, 'OUT': 'package_noise.asdf'}})\n"
        "import asdf\n"
        f"mask = {str(folder / 'cal' / 'mask.asdf')!r}\n"
        "with asdf.open(mask, memmap=False, lazy_load=False) as file:\n"
        "    file['roman']['dq'] &= 0x7FFFFFFF  # without REFERENCE_PIXEL\n"
        "    file.write_to(mask)\n"
    )
    folder.mkdir(parents=True, exist_ok=True)
    for old in folder.glob("package*"):
        old.unlink()
    subprocess.run(
        [python, "-W", "ignore", "-c", program],
        check=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    stamp.write_text(json.dumps(made_by))
    say(f"simulated {folder} in {time.perf_counter() - began:.0f} s")
    return config


def table(head: list[str], lines: list[list[str]]) -> str:
    """A Markdown table with aligned columns."""
    width = [max(len(row[i]) for row in [head, *lines]) for i in range(len(head))]
    rows = [head, ["-" * w for w in width], *lines]
    return "\n".join(
        "| " + " | ".join(c.ljust(w) for c, w in zip(r, width, strict=True)) + " |" for r in rows
    )
