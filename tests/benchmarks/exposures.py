"""Simulated exposures to measure on, kept from run to run."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
CACHE = ROOT / "benchmarks"
"""Where they are kept; git does not see it, and ``make clean`` removes it."""

FRAMES = (1, 1, 2, 6, 16, 6, 2, 1)
"""Reads averaged into each of eight resultants; further ones have two."""
_BYTES = 140
"""Bytes per pixel of an exposure and its products, beside 10 for each resultant."""


def read_pattern(resultants: int) -> list[list[int]]:
    """Frames of each resultant; the first eight are the same for any number."""
    counts = [*FRAMES, *[2] * resultants][:resultants]
    first = [sum(counts[:i]) for i in range(resultants)]
    return [list(range(a, a + n)) for a, n in zip(first, counts, strict=True)]


def exposure(side: int, resultants: int = 8) -> Path:
    """The configuration of a simulated exposure, made unless it is there.

    The simulator runs in a process of its own, so that this one stays small.
    """
    folder = CACHE / f"side{side}_resultants{resultants}"
    stamp = folder / "made.json"
    simulator = (ROOT / "roman_dask_l2" / "simulate.py").read_bytes()
    options: dict[str, Any] = {"side": side, "read_pattern": read_pattern(resultants), "seed": 1}
    made = {"options": options, "simulator": hashlib.sha256(simulator).hexdigest()}
    if stamp.is_file() and json.loads(stamp.read_text()) == made:
        return folder / "config.yaml"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    need, free = side**2 * (_BYTES + 10 * resultants), shutil.disk_usage(folder).free
    if free < need:
        raise SystemExit(f"{folder}: {need / 1e9:.1f} GB are needed, {free / 1e9:.1f} GB are free")
    began = time.perf_counter()
    code = (
        "import json, sys; from roman_dask_l2.simulate import simulate\n"
        "simulate(sys.argv[1], **json.loads(sys.argv[2]))"
    )
    subprocess.run([sys.executable, "-c", code, folder, json.dumps(options)], check=True, cwd=ROOT)
    stamp.write_text(json.dumps(made))
    print(f"simulated {folder.name} in {time.perf_counter() - began:.0f} s", flush=True)
    return folder / "config.yaml"


def warm(config: Path) -> None:
    """Read all input files once, so that they are in the page cache."""
    for path in [config.with_name("l1.asdf"), *config.with_name("cal").iterdir()]:
        with open(path, "rb") as file:
            while file.read(1 << 22):
                pass
