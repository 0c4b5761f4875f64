"""The programs in ``benchmarks/`` and ``validation/truth/`` as modules."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
BENCHMARKS = ROOT / "benchmarks"


def load(name, folder="benchmarks"):
    """One of them, under a name that no other module has."""
    file = ROOT / folder / f"{name}.py"
    spec = importlib.util.spec_from_file_location(f"{folder.replace('/', '_')}_{name}", file)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module
