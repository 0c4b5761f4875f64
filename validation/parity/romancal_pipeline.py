"""Runs inside romancal's environment: its exposure pipeline step by step, without a network.

``python romancal_pipeline.py L1 CALDIR OUT`` runs the steps in their order on one exposure, with
the reference files ``CALDIR/<type>.asdf``. What each leaves is stored in ``OUT/<n>_<step>``, one
``.npy`` file for each array and ``meta.json``; only arrays that changed are stored again. Time,
processor time and peak memory of each step go to ``OUT/steps.json``, and ``OUT/l2.asdf`` is what
the pipeline would have written. With ``--light`` only the last two are stored. ``--skip``
(comma-separated) leaves out steps.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import sys
import threading
import time
import warnings
from pathlib import Path
from typing import Any

SERVER_CONFIG = {
    "observatory": "roman", "latest_context": "roman_0000.pmap",
    "operational_context": "roman_0000.pmap", "force_remote_mode": False, "bad_files_list": [],
    "last_synced": "", "status": "cache", "crds_version": {"str": "14.0.3"},
}  # fmt: skip
STEPS = {
    "dq_init": ("dq_init", "DQInitStep", ("mask",)),
    "saturation": ("saturation", "SaturationStep", ("saturation",)),
    "refpix": ("refpix", "RefPixStep", ("refpix",)),
    "dark_decay": ("dark_decay", "DarkDecayStep", ("darkdecaysignal",)),
    "wfi18_transient": ("wfi18_transient", "WFI18TransientStep", ()),
    "linearity": (
        "linearity", "LinearityStep", ("linearity", "inverselinearity", "integralnonlinearity"),
    ),
    "ramp_fit": ("ramp_fitting", "RampFitStep", ("readnoise", "gain")),
    "dark": ("dark_current", "DarkCurrentStep", ("dark",)),
    "assign_wcs": ("assign_wcs", "AssignWcsStep", ("distortion",)),
    "photom": ("photom", "PhotomStep", ("photom",)),
    "flat": ("flatfield", "FlatFieldStep", ("flat",)),
}  # fmt: skip
"""Name -> module of romancal, class, reference types; in the pipeline's order."""
ARRAYS = (
    "data", "groupdq", "pixeldq", "dq", "err", "var_poisson", "var_rnoise", "var_flat", "chisq",
    "dumo", "amp33", "jump_indices", *(
        f"{dq}border_ref_pix_{side}"
        for dq in ("", "dq_") for side in ("left", "right", "bottom", "top")
    ),
)  # fmt: skip


def without_network(folder: Path) -> None:
    """Settings by which CRDS and the steps ask no server."""
    config = folder / "crds" / "config" / "roman" / "server_config"
    config.parent.mkdir(parents=True, exist_ok=True)
    config.write_text(repr(SERVER_CONFIG))
    os.environ |= {
        "STPIPE_DISABLE_CRDS_STEPPARS": "true",
        "CRDS_SERVER_URL": "https://crds-serverless-mode.stsci.edu",
        "CRDS_PATH": str(folder / "crds"),
    }


class Watch:
    """Largest resident memory (bytes) since `reset`, looked at every 10 ms."""

    def __init__(self) -> None:
        self.peak = 0
        threading.Thread(target=self._look, daemon=True).start()

    def _look(self) -> None:
        while True:
            self.peak = max(self.peak, self.resident())
            time.sleep(0.01)

    def resident(self) -> int:
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * resource.getpagesize()

    def reset(self) -> None:
        self.peak = self.resident()


def timed(watch: Watch, name: str, call: Any) -> tuple[Any, dict[str, Any]]:
    """What `call` returns, and what it took."""
    watch.reset()
    before = resource.getrusage(resource.RUSAGE_SELF)
    resident, began = watch.resident(), time.perf_counter()
    result = call()
    wall = time.perf_counter() - began
    after = resource.getrusage(resource.RUSAGE_SELF)
    return result, {
        "step": name,
        "wall": wall,
        "user": after.ru_utime - before.ru_utime,
        "system": after.ru_stime - before.ru_stime,
        "before": resident,
        "peak": max(watch.peak, watch.resident()),
    }


class Store:
    """Arrays after each step, each one stored where it differs from the step before."""

    def __init__(self, out: Path) -> None:
        self.out = out
        self.last: dict[str, Path] = {}

    def keep(self, n: int, name: str, model: Any) -> None:
        import numpy as np

        folder = self.out / f"{n:02d}_{name}"
        folder.mkdir(parents=True, exist_ok=True)
        where = {}
        for array in ARRAYS:
            value = getattr(model, array, None)
            if value is None:
                self.last.pop(array, None)
                continue
            value = np.asarray(value)
            old = self.last.get(array)
            if old is None or not same(np.load(old, mmap_mode="r"), value):
                self.last[array] = folder / f"{array}.npy"
                np.save(self.last[array], value)
            where[array] = os.path.relpath(self.last[array], self.out)
        meta = plain(model.meta._data if hasattr(model.meta, "_data") else dict(model.meta))
        (folder / "meta.json").write_text(json.dumps({"arrays": where, "meta": meta}, indent=1))


def same(old: Any, new: Any) -> bool:
    import numpy as np

    if old.shape != new.shape or old.dtype != new.dtype:
        return False
    return all(
        np.array_equal(a.view(np.uint8), b.view(np.uint8))
        for a, b in zip(old, np.ascontiguousarray(new), strict=True)
    )


def plain(value: Any) -> Any:
    """Metadata as JSON can hold it."""
    if hasattr(value, "items"):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    return value if isinstance(value, str | int | float | bool | None) else str(value)


def run(l1: Path, caldir: Path, out: Path, light: bool, skip: set[str]) -> None:
    """The pipeline; raises what a step raises."""
    import importlib

    import roman_datamodels.datamodels as models

    watch, store, took = Watch(), Store(out), []

    raw, spent = timed(watch, "open", lambda: models.open(l1))
    model = models.RampModel.from_science_raw(raw)
    took.append(spent)
    for n, (name, (module, kind, references)) in enumerate(STEPS.items(), 1):
        if name in skip:
            continue
        step = getattr(importlib.import_module(f"romancal.{module}"), kind)
        overrides = {f"override_{r}": str(caldir / f"{r}.asdf") for r in references}
        model, spent = timed(watch, name, lambda s=step, m=model, o=overrides: s.call(m, **o))
        took.append(spent)
        print(f"{name}: {spent['wall']:.1f} s", flush=True)
        if not light:
            store.keep(n, name, model)
        (out / "steps.json").write_text(json.dumps(took, indent=1))
    _, spent = timed(watch, "save", lambda: model.save(out / "l2.asdf"))
    took.append(spent)
    (out / "steps.json").write_text(json.dumps(took, indent=1))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("l1", type=Path)
    parser.add_argument("caldir", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--light", action="store_true")
    parser.add_argument("--skip", default="")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    warnings.simplefilter("ignore")
    without_network(args.out)
    run(args.l1, args.caldir, args.out, args.light, set(args.skip.split(",")))
    return 0


if __name__ == "__main__":
    sys.exit(main())
