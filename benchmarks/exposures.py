"""Simulated exposures to measure on, kept from run to run."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
CACHE = ROOT / "out" / "benchmarks"
"""Where they are kept; git does not see it, and ``make clean`` removes it."""

FRAMES = (1, 1, 2, 6, 16, 6, 2, 1)
"""Reads averaged into each of eight resultants; further ones have two."""
_BYTES = 140
"""Bytes per pixel of an exposure and its products, beside 10 for each resultant."""
_CALIBRATION, _OF_CAMPAIGN = 175, 50
"""Bytes per pixel of the reference files of a detector, and of an exposure with its products;
eight resultants."""


def read_pattern(resultants: int) -> list[list[int]]:
    """Frames of each resultant; the first eight are the same for any number."""
    counts = [*FRAMES, *[2] * resultants][:resultants]
    first = [sum(counts[:i]) for i in range(resultants)]
    return [list(range(a, a + n)) for a, n in zip(first, counts, strict=True)]


def exposure(side: int, resultants: int = 8) -> Path:
    """The configuration of a simulated exposure, made unless it is there."""
    folder = CACHE / f"side{side}_resultants{resultants}"
    options = {"side": side, "read_pattern": read_pattern(resultants), "seed": 1}
    need = side**2 * (_BYTES + 10 * resultants)
    return _kept(folder, options, need, lambda: _simulate(folder, options)) / "config.yaml"


def campaign(side: int, detectors: int = 3, each: int = 4) -> Path:
    """A directory with Level-1 files ``l1/sim_L1_F158_{obs}_{sca}.asdf`` of so many exposures of
    each detector, and reference files ``cal_{sca}/``, made unless it is there.

    One exposure of each detector is simulated, the others are copies of its file: what a batch
    costs does not depend on the numbers in it.
    """
    folder = CACHE / f"campaign{side}_{detectors}x{each}"
    options = {"side": side, "read_pattern": read_pattern(8), "detectors": detectors, "each": each}
    need = side**2 * (detectors * _CALIBRATION + detectors * each * _OF_CAMPAIGN + _BYTES)

    def make() -> None:
        (folder / "l1").mkdir()
        new = folder / "new"
        for sca in range(1, detectors + 1):
            one = {"side": side, "read_pattern": options["read_pattern"], "seed": sca}
            _simulate(new, one | {"detector": f"WFI{sca:02d}"})
            for obs in range(1, each + 1):
                shutil.copyfile(new / "l1.asdf", folder / "l1" / f"sim_L1_F158_{obs}_{sca}.asdf")
            (new / "cal").rename(folder / f"cal_{sca}")
            (new / "wcs.txt").replace(folder / "wcs.txt")
            shutil.rmtree(new)

    return _kept(folder, options, need, make)


def _simulate(folder: Path, options: Mapping[str, Any]) -> None:
    """The simulator runs in a process of its own, so that this one stays small."""
    code = (
        "import json, sys; from roman_dask_l2.simulation.simulate import simulate\n"
        "simulate(sys.argv[1], **json.loads(sys.argv[2]))"
    )
    subprocess.run([sys.executable, "-c", code, folder, json.dumps(options)], check=True, cwd=ROOT)


def _kept(folder: Path, options: dict[str, Any], need: int, make: Callable[[], None]) -> Path:
    """A directory that `make` fills, unless it is there and was made by the same simulator."""
    stamp = folder / "made.json"
    sources = sorted((ROOT / "roman_dask_l2" / "simulation").glob("*.py"))
    simulator = b"".join(path.read_bytes() for path in sources)
    made = {"options": options, "simulator": hashlib.sha256(simulator).hexdigest()}
    if stamp.is_file() and json.loads(stamp.read_text()) == made:
        return folder
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    free = shutil.disk_usage(folder).free
    if free < need:
        raise SystemExit(f"{folder}: {need / 1e9:.1f} GB are needed, {free / 1e9:.1f} GB are free")
    began = time.perf_counter()
    make()
    stamp.write_text(json.dumps(made))
    print(f"simulated {folder.name} in {time.perf_counter() - began:.0f} s", flush=True)
    return folder


def warm(config: Path) -> None:
    """Read all input files once, so that they are in the page cache."""
    warm_files([config.with_name("l1.asdf"), *config.with_name("cal").iterdir()])


def warm_files(paths: Iterable[Path]) -> None:
    """Read files once, so that they are in the page cache."""
    for path in paths:
        with open(path, "rb") as file:
            while file.read(1 << 22):
                pass
