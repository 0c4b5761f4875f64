"""Tile stage of exposures after the first of a process, with these numbers of threads in turn.

    python benchmarks/again.py CONFIG REPEAT THREADS [THREADS ...]

Prints JSON: threads -> wall times of the stage (s). What a process does once, such as importing
the libraries that write the file, which goes on beside the first tiles, is not in them.
"""

from __future__ import annotations

import json
import sys

from roman_dask_l2.products.level2 import calibrate


def main() -> None:
    config, repeat, *threads = sys.argv[1:]
    calibrate(config)
    found: dict[str, list[float]] = {n: [] for n in threads}
    for _ in range(int(repeat)):
        for n in threads:
            found[n].append(calibrate(config, threads=int(n)).seconds["tiles"])
    sys.stdout.write(json.dumps(found) + "\n")


if __name__ == "__main__":
    main()
