"""Tables of the page on ramp fits, from what ``make truth`` measured (fits.json)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
REQUIRED = (0.1, 1, 10, 100, 1000)
PLACES = {
    "hit above 8 sigma": "hit, above 8 σ",
    "hit below 8 sigma": "hit, below 8 σ",
    "4 neighbours": "next to a hit, by a side",
    "4 diagonal neighbours": "next to a hit, by a corner",
    "others": "all others",
}


def measured() -> dict[str, Any]:
    """The results."""
    return json.loads((HERE / "fits.json").read_text())


def _table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] + ["--:"] * (len(head) - 1), *rows]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


def _pairs(found: dict[str, Any]) -> list[tuple[dict, dict]]:
    """Results at each rate: of the fit with fixed weights, and of the likelihood fit."""
    rows = found["errors"]
    by = {(row["fit"], row["rate"]): row for row in rows}
    return [(by["fixed", r], by["likelihood", r]) for r in dict.fromkeys(x["rate"] for x in rows)]


def errors(found: dict[str, Any]) -> str:
    """Scatter of the rate, its bias, and whether the stated error is right."""
    head = [
        "rate (DN/s)", "scatter, fixed weights (DN/s)", "likelihood (DN/s)", "smaller by",
        "bias (% of scatter)", "scatter / stated error", "false jumps (per million pixels)",
    ]  # fmt: skip
    rows = []
    for fixed, likely in _pairs(found):
        if likely["rate"] in REQUIRED:
            rows.append([
                f"{likely['rate']:g}", f"{fixed['scatter']:.4g}", f"{likely['scatter']:.4g}",
                f"{100 * (1 - likely['scatter'] / fixed['scatter']):.1f} %",
                f"{100 * likely['bias']:+.3f} ± {100 * likely['bias_error']:.3f}",
                f"{likely['scatter'] / likely['err']:.4f}", f"{1e6 * likely['false_jumps']:.0f}",
            ])  # fmt: skip
    return _table(head, rows)


def weighting(found: dict[str, Any]) -> str:
    """What comes of weighting pixels by their stated errors."""
    rows = [
        [f"{one['rate']:g}", f"{fixed['pull']:+.3f}", f"{one['pull']:+.3f}",
         f"{one['chi_square']:.3f}"]
        for fixed, one in _pairs(found) if one["rate"] <= 10
    ]  # fmt: skip
    head = ["rate (DN/s)", "mean, fixed weights", "mean, likelihood", "mean square, likelihood"]
    return _table(head, rows)


def hits(found: dict[str, Any]) -> str:
    """Pixels hit by a cosmic ray above 8 sigma."""
    by = {(row["fit"], row["rate"]): row["above"] for row in found["hits"]}
    rows = [
        [f"{r:g}", f"{by['likelihood', r]['flagged']:.2%}", f"{by['likelihood', r]['within']:.1%}",
         f"{by['fixed', r]['within']:.1%}", f"{by['likelihood', r]['err']:.2f}"]
        for r in dict.fromkeys(row["rate"] for row in found["hits"])
    ]  # fmt: skip
    head = ["rate (DN/s)", "found", "right, likelihood", "right, fixed weights",
            "error over that of a pixel without a hit"]  # fmt: skip
    return _table(head, rows)


def frame(found: dict[str, Any]) -> str:
    """The frame, pixel by pixel."""
    fixed, likely = found["frame"]["fixed"], found["frame"]["likelihood"]
    rows = []
    for key, name in PLACES.items():
        a, b = fixed["places"][key], likely["places"][key]
        cells = [name, f"{b['pixels']}"]
        for one in (a, b):
            cells += [f"{one['masked']:.2%}", "-" if one["masked"] == 1 else f"{one['wrong']:.2%}"]
        rows.append(cells)
    head = ["pixel", "pixels", "masked, fixed weights", "wrong of the rest", "masked, likelihood",
            "wrong of the rest"]  # fmt: skip
    return _table(head, rows)


def usable(found: dict[str, Any]) -> str:
    """Pixels of the frame that are left, with either fit."""
    fixed, likely = found["frame"]["fixed"], found["frame"]["likelihood"]
    n = likely["pixels"]
    rows = [
        [what, f"{fixed[key]}", f"{likely[key]}",
         f"{likely[key] - fixed[key]} ({(likely[key] - fixed[key]) / n:.2%})"]
        for what, key in (("usable", "usable"), ("usable, and right", "right"))
    ]  # fmt: skip
    return _table([f"of {n} pixels", "fixed weights", "likelihood", "difference"], rows)


TABLES = {f.__name__: f for f in (errors, weighting, hits, frame, usable)}


def write(folder: Path) -> None:
    """Write each table to ``fits_NAME.md`` in `folder`."""
    folder.mkdir(exist_ok=True)
    found = measured()
    for name, make in TABLES.items():
        (folder / f"fits_{name}.md").write_text(make(found))
