"""The oldest versions that pyproject.toml allows, as constraints for pip.

    python validation/versions/oldest.py        writes constraints-oldest.txt beside this file

Each ``>=`` becomes ``==``. Tools that only build or check are left out: they are not promised to
anybody.
"""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FILE = Path(__file__).with_name("constraints-oldest.txt")
TOOLS = ("bench", "dev", "docs")
"""Extras of developers."""


def constraints(pyproject: str) -> str:
    """The text of constraints-oldest.txt.

    Parameters
    ----------
    pyproject : str
        The text of pyproject.toml.

    Raises
    ------
    ValueError
        If a requirement has no lower bound, or two extras ask for different ones.
    """
    project = tomllib.loads(pyproject)["project"]
    lines = list(project["dependencies"])
    for extra, more in project["optional-dependencies"].items():
        lines += more if extra not in TOOLS else []
    oldest: dict[str, str] = {}
    for line in lines:
        found = re.fullmatch(r"([\w.-]+)(?:\[[\w,]+\])?>=([\w.]+)(,.*)?", line)
        if not found:
            raise ValueError(f"{line}: no lower bound")
        name, version = found[1], found[2]
        if oldest.setdefault(name, version) != version:
            raise ValueError(f"{name}: both >={oldest[name]} and >={version}")
    return "".join(f"{name}=={version}\n" for name, version in sorted(oldest.items()))


if __name__ == "__main__":
    FILE.write_text(constraints((ROOT / "pyproject.toml").read_text()))
