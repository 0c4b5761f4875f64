"""What the benchmark programs write: machine, medians, ratios, tables, the manual's page."""

from __future__ import annotations

import json
import os
import platform
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "benchmarks.md"
RESULTS = ROOT / "docs" / "benchmarks"

METRICS = (
    "wall", "cpu", "resident", "anonymous", "read", "written", "disk_read", "disk_written",
)  # fmt: skip
COLUMNS = {
    "wall": "wall s",
    "cpu": "CPU s",
    "resident": "peak resident GB",
    "anonymous": "peak anonymous GB",
    "read": "read GB",
    "written": "written GB",
}
"""Shown in tables; GB are 10^9 bytes."""
BUSY = 0.1
"""Processors that others may use while we measure."""

Runs = Sequence[Mapping[str, Any]]


def machine() -> dict[str, Any]:
    """What the figures were measured on."""
    info = dict(
        re.findall(r"^([\w ]+?)\s*:\s*(.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    )
    memory = int(re.findall(r"MemTotal:\s*(\d+)", Path("/proc/meminfo").read_text())[0])
    return {
        "cpu": info.get("model name", platform.machine()),
        "processors": os.cpu_count(),
        "memory_GB": round(memory * 1024 / 1e9, 1),
        "kernel": platform.release(),
    }


def same_machine(a: Mapping[str, Any], b: Mapping[str, Any]) -> bool:
    """Whether figures of the two can stand side by side."""
    return all(a.get(key) == b.get(key) for key in ("cpu", "processors", "memory_GB"))


def versions(python: str | Path = sys.executable, *names: str) -> dict[str, str]:
    """Versions of Python and of installed packages in an environment."""
    code = (
        "import json, platform, sys; from importlib.metadata import version\n"
        "print(json.dumps({'python': platform.python_version(), "
        "**{n: version(n) for n in sys.argv[1:]}}))"
    )
    said = subprocess.run(
        [python, "-c", code, *names], check=True, capture_output=True, text=True, cwd=ROOT
    )
    return json.loads(said.stdout)


def commit() -> str:
    """The commit that was measured, with "-dirty" if the tree had changes; empty outside git."""
    said = subprocess.run(
        ["git", "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"],
        capture_output=True, text=True, cwd=ROOT,
    )  # fmt: skip
    return said.stdout.strip()


def now() -> str:
    return time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime())


def stages(log: Path) -> dict[str, float]:
    """Wall time (s) of the stages that our program has reported in its log."""
    found = re.findall(
        r"^\d\d:\d\d:\d\d (\S+) +(\d+\.\d+) s(?:, .*)?$", log.read_text(), re.MULTILINE
    )
    return {name: float(seconds) for name, seconds in found}


def spread(runs: Runs) -> dict[str, dict[str, float]]:
    """Median, least and largest of every metric."""
    result = {}
    for name in METRICS:
        values = [run[name] for run in runs]
        result[name] = {
            "median": statistics.median(values), "min": min(values), "max": max(values)
        }  # fmt: skip
    return result


def ratio(theirs: Mapping[str, Any], ours: Mapping[str, Any], metric: str) -> dict[str, float]:
    """How many times more they take: of medians, and the least and largest of any two runs."""
    a, b = theirs[metric], ours[metric]
    return {
        "median": round(a["median"] / b["median"], 2),
        "min": round(a["min"] / b["max"], 2),
        "max": round(a["max"] / b["min"], 2),
    }


def shown(metric: str, value: float) -> str:
    """A median for a table."""
    return f"{value:.2f}" if metric in ("wall", "cpu") else f"{value / 1e9:.2f}"


def cells(values: Mapping[str, Mapping[str, float]]) -> list[str]:
    """The columns of `COLUMNS`; wall time with its range."""
    row = [shown(name, values[name]["median"]) for name in COLUMNS]
    least, most = (shown("wall", values["wall"][which]) for which in ("min", "max"))
    if least != most:
        row[0] += f" ({least} to {most})"
    return row


def disturbances(runs: Runs) -> list[str]:
    """What makes the figures doubtful, one sentence each."""
    notes = []
    busy = [run["others"] for run in runs if run["others"] > BUSY]
    if busy:
        notes.append(
            f"The machine was not quiet: during {len(busy)} of {len(runs)} runs other programs kept"
            f" more than {BUSY} processors busy, {max(busy):.1f} at most."
        )
    stolen = [run["stolen"] for run in runs if run["stolen"] > BUSY]
    if stolen:
        notes.append(
            f"During {len(stolen)} of {len(runs)} runs the host took away more than {BUSY}"
            f" processors, {max(stolen):.1f} at most."
        )
    return notes


def heading(info: Mapping[str, Any]) -> str:
    """When, of what, and on what."""
    m = info["machine"]
    return (
        f"Measured {info['date']}, commit {info['commit'] or 'unknown'}, on {m['processors']}"
        f" processors ({m['cpu']}), {m['memory_GB']} GB of memory, Linux {m['kernel']}."
    )


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    part.write_text(json.dumps(content, indent=1) + "\n")
    part.replace(path)


def put_into_page(name: str, text: str, page: Path = PAGE) -> None:
    """Replace what stands between the two markers of a name.

    Raises
    ------
    SystemExit
        If the page has not both.
    """
    begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    before, found, rest = page.read_text().partition(begin)
    _, found_end, after = rest.partition(end)
    if not found or not found_end:
        raise SystemExit(f"{page}: expected the lines {begin} and {end}")
    part = page.with_name(page.name + ".part")
    part.write_text(f"{before}{begin}\n\n{text.strip()}\n\n{end}{after}")
    part.replace(page)


def reached(value: bool) -> str:
    return "reached" if value else "not reached"


def joined(parts: Iterable[str]) -> str:
    """Paragraphs."""
    return "\n\n".join(part for part in parts if part) + "\n"
