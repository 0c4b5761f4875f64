"""The demo: simulate, calibrate, compare with the truth."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import time
from pathlib import Path
from typing import Any

from .. import simulation
from ..config.recipe import load_recipe
from ..engine.options import RunOptions
from ..errors import InputError
from ..products.level2 import calibrate
from ..report.exposure import exposure_report
from ..report.look import quicklook
from ..report.truth import DemoReport, compare, convention
from ..simulation.simulate import simulate
from ..system.processes import cpu_count
from ..system.versions import __version__

log = logging.getLogger(__name__)


def run_demo(
    directory: Path,
    *,
    side: int = 1024,
    seed: int = 1,
    recipe: str | Path | None = None,
    options: RunOptions | None = None,
    **changes: Any,
) -> DemoReport:
    """Simulate an exposure, calibrate it and compare the result with the truth.

    Parameters
    ----------
    directory : Path
        Where everything goes; made if need be. A simulation with the same side and seed that is
        there already is used again.
    side : int
        Detector side; 4096 in flight.
    seed : int
        Of the simulation.
    recipe : str or Path, optional
        Name of a shipped recipe, or a file; the default one if not told. The simulated detector is
        one that the recipe's reference files describe.
    options : RunOptions, optional
    **changes
        As for `calibrate`.

    Returns
    -------
    DemoReport

    Raises
    ------
    InputError
        For a side or recipe that cannot be, or a directory that cannot be written.
    """
    directory, options = Path(directory), RunOptions.of(options, changes)
    with_recipe = "" if recipe is None else f", recipe {recipe}"
    report = DemoReport(f"Demonstration: {side} x {side} pixels, seed {seed}{with_recipe}")
    began = time.perf_counter()

    def stage(name: str) -> None:
        nonlocal began
        now = time.perf_counter()
        report.seconds[name] = now - began
        began = now

    given = _of_recipe(recipe)
    try:
        repeated = _simulated(directory, side, seed, given, options.threads or cpu_count())
    except OSError as error:
        raise InputError(f"{directory}: cannot write there: {error.strerror or error}") from None
    stage("reading the simulation" if repeated else "simulation")
    config = directory / "config.yaml"
    result = calibrate(config, options)
    stage("calibration")
    report.files = {
        "exposure": directory / "l1.asdf",
        "truth": directory / "truth.asdf",
        "configuration": config,
        "L2 image": directory / result.out.name,
    }
    if result.fits is not None:
        report.files["FITS copy"] = directory / result.fits.name
    report.notes.append(f"truth: {convention(report.files['truth'], report.files['L2 image'])}")
    report.checks += compare(config, report.files["L2 image"], report.files["truth"])
    stage("comparison")
    picture = directory / "quicklook.png"
    try:
        quicklook(report.files["L2 image"], report.files["truth"], picture)
        report.files["quick look"] = picture
        report.files["report"] = exposure_report(report.files["L2 image"])
    except InputError as error:  # the calibration is fine without a picture of it
        log.warning("no quick look: %s", error)
        report.notes.append(f"no quick look: {error}")
    stage("pictures")
    for check in report.checks:
        level = logging.INFO if check.ok else logging.ERROR
        log.log(level, "%s: %s, expected %s", check.name, check.measured, check.expected)
    return report


_OWN = {
    "observatory": {"linearity", "inverselinearity", "refpix", "photom", "integralnonlinearity"},
    "survey": {"linearitylegendre"},
}
"""Kinds of reference files that only the one or only the other has, and that steps cannot do
without: a detector may have neither a bias nor inter-pixel capacitance."""


def _of_recipe(recipe: str | Path | None) -> dict[str, Any]:
    """Options of `simulate` for a recipe: its name, and whose reference files it needs."""
    if recipe is None:
        return {}
    name = str(recipe)
    if name.endswith(".yaml") or "/" in name:  # as seen from here, not from the configuration
        name = os.path.abspath(name)
    kinds = {
        array.split(".")[0]
        for bound in load_recipe(name).steps
        for array in bound.step.references_for(bound.params).values()
    }  # fmt: skip
    whose = [references for references, own in _OWN.items() if own & kinds]
    if len(whose) > 1:
        raise InputError(
            f"recipe {recipe}: needs reference files of both kinds ("
            f"{', '.join(sorted(kinds & (_OWN['observatory'] | _OWN['survey'])))}), expected a "
            "recipe for the survey's or for the observatory's, as simulated detectors are of one"
        )
    references = whose[0] if whose else "survey"
    with_ipc = {"ipc": True} if references == "observatory" and "ipc4d" in kinds else {}
    return {"references": references, "config": {"GRAPH": name}} | with_ipc


def _simulated(directory: Path, side: int, seed: int, given: dict[str, Any], threads: int) -> bool:
    """Simulate, unless the same simulation is there, which a small file beside it tells."""
    folder = Path(simulation.__file__).parent
    texts = [path.read_bytes() for path in sorted(folder.glob("*.py"))]
    code = hashlib.sha256(b"".join(texts)).hexdigest()
    wanted = {"side": side, "seed": seed, "version": __version__, "simulator": code} | given
    note = directory / "simulation.json"
    try:
        found = json.loads(note.read_text())
        files = found.pop("files")
        if found == wanted and all((directory / name).is_file() for name in files):
            log.info("the simulation in %s is used again", directory)
            return True
    except (OSError, ValueError, LookupError, AttributeError):
        pass
    note.unlink(missing_ok=True)
    made = simulate(directory, side=side, seed=seed, threads=threads, **given)
    paths = [made.l1, made.truth, made.fitswcs, made.config, *made.caldir.values()]
    files = [str(path.relative_to(directory)) for path in paths]
    note.write_text(json.dumps(wanted | {"files": files}, indent=1) + "\n")
    return False
