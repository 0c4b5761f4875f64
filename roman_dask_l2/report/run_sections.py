"""Sections of an exposure's report on how it was made: timings, configuration, provenance."""

from __future__ import annotations

from typing import Any

import yaml

from ..system.versions import __version__
from . import plots
from .facts import Facts
from .page import Page

STAGES = ("open", "tiles", "sky", "mask")
"""The stages in the order in which they run; the file has them sorted by name."""


def timings_section(page: Page, facts: Facts) -> None:
    page.section("timings", "Timings")
    timings = facts.l2.info.get("timings", {})
    stages, steps = timings.get("stages", {}), timings.get("steps", {})
    if not stages:
        page.text("The file does not say.")
        return
    tile = timings.get("tile") or ["?", "?"]
    spent = None if facts.noise is None else facts.noise.seconds
    page.text(
        f"Tiles of {tile[0]} x {tile[1]} pixels. Starting the program and writing the end of the "
        "file are not included in these times"
        + (", nor are noise layers." if spent is None else f"; noise layers took {spent:.1f} s.")
    )
    stages = {name: stages[name] for name in (*STAGES, *stages) if name in stages}
    shown = [
        (
            "stages",
            plots.bars("Wall time by stage", stages, "wall time (s)", "stage"),
            "Wall time, s.",
        )
    ]
    if steps:
        ordered = dict(sorted(steps.items(), key=lambda item: -item[1]))
        shown.append(
            (
                "steps",
                plots.bars("Processor time by step", ordered, "processor time (s)", "step"),
                "Processor time, s, all threads together; store is the time spent on writing.",
            )
        )  # fmt: skip
    page.plots(shown)


def configuration_section(page: Page, facts: Facts) -> None:
    page.section("configuration", "Configuration")
    info = facts.l2.info
    page.pre("Configuration, as it was given", _yaml(dict(info.get("config", {}))))
    page.pre("Steps and their options", str(info.get("log", "")))


def provenance_section(page: Page, facts: Facts) -> None:
    page.section("provenance", "Provenance")
    made = facts.l2.info.get("provenance", {})
    page.text(f"Fingerprint {made.get('fingerprint', '-')}.")
    page.table(
        ["input", "file", "MB", "content (SHA-256)"],
        [
            [key, str(file["path"]), f"{file['size'] / 1e6:.1f}", f"{file['content'][:12]}.."]
            for key, file in made.get("files", {}).items()
        ],
    )
    page.table(["package", "version"], [[k, str(v)] for k, v in made.get("versions", {}).items()])
    page.text(f"Report by roman-dask-l2 {__version__}.")


def _yaml(value: Any) -> str:
    return yaml.safe_dump(value, sort_keys=False, allow_unicode=True)
