"""Do two output files hold the same? ``python validation/slurm/compare.py A.asdf B.asdf``"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

MAY_DIFFER = {
    "file_date",
    "timings",
    "seconds",
    "filename",
    "path",
    "name",
    "config",
    "OUT",
    "asdf_library",
    "history",
}
"""Keys that tell of the run or of the place, not of the exposure."""


def leaves(node: Any, where: str = "") -> Iterator[tuple[str, Any]]:
    """All values of a tree with the names of their places."""
    if isinstance(node, Mapping):
        for key, value in node.items():
            if key not in MAY_DIFFER:
                yield from leaves(value, f"{where}.{key}")
    elif isinstance(node, list | tuple):
        for i, value in enumerate(node):
            yield from leaves(value, f"{where}[{i}]")
    else:
        yield where, node


def contents(path: Path) -> dict[str, Any]:
    """Place -> value; arrays as type, shape and bytes, so that NaN is NaN and -0 is not 0."""
    if path.suffix == ".fits":
        from astropy.io import fits

        with fits.open(path) as file:
            return {f"HDU {i}": bits(hdu.data) for i, hdu in enumerate(file)}
    import asdf

    with asdf.open(path, lazy_load=True, memmap=False) as file:
        return {
            place: bits(value)
            for place, value in leaves(file.tree)
            if isinstance(value, str | int | float | bool) or hasattr(value, "dtype")
        }


def bits(value: Any) -> Any:
    if hasattr(value, "dtype"):
        array = np.asarray(value)
        return array.dtype.newbyteorder("=").str, array.shape, array.tobytes()
    return repr(value)


def differences(a: Path, b: Path) -> list[str]:
    """Places where two files differ, by a bit or more."""
    one, two = contents(Path(a)), contents(Path(b))
    assert any(isinstance(value, tuple) for value in one.values()), f"{a}: has no arrays"
    return sorted(place for place in one.keys() | two.keys() if one.get(place) != two.get(place))


if __name__ == "__main__":
    found = differences(Path(sys.argv[1]), Path(sys.argv[2]))
    for place in found:
        print(f"{place} differs")
    sys.exit(bool(found))
