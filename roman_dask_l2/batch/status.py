"""How far a campaign is, from its manifest."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from ..system.text import clock, duration, table
from . import manifest
from .campaign import load_campaign
from .locks import holder, read_owner

NAMES = ("done", "failed", "running", "interrupted", "not begun")
"""States of an exposure."""
WINDOW = 3600.0
"""Seconds over which the rate is taken."""
_SHOWN = 50


def status_lines(path: Path, now: float | None = None) -> list[str]:
    """What ``status`` prints: counts, rate, estimated end, failures.

    Raises
    ------
    InputError
        If the campaign file or its manifest cannot be read.
    """
    now = time.time() if now is None else now
    campaign = load_campaign(path)
    history = manifest.read(campaign.manifest)
    states = {entry.identity: state(history.last.get(entry.identity)) for entry in campaign.entries}
    count = Counter(states.values())
    lines = [f"{path}: {len(states)} exposures"]
    lines += [f"  {name:12} {count[name]:7}" for name in NAMES]
    gone = sum(identity not in states for identity in history.last)
    if gone:
        lines.append(f"  {gone} more in the manifest are not in the campaign any more")
    lines += _speed(history.ended, len(states) - count["done"] - count["failed"], count, now)
    failures = [
        (identity, history.last[identity].get("error") or "")
        for identity, found in states.items()
        if found in ("failed", "interrupted")
    ]
    if failures:
        lines += ["", *table(("not done", "error"), failures[:_SHOWN])]
        if len(failures) > _SHOWN:
            lines.append(f"and {len(failures) - _SHOWN} more")
    return lines


def state(line: Mapping[str, Any] | None) -> str:
    """One of `NAMES`, from the last line of an exposure in the manifest."""
    if line is None:
        return "not begun"
    if line["status"] != "running":
        return line["status"]
    lock = Path(line.get("lock", ""))
    return "running" if _holds(lock, line["attempt"]) else "interrupted"


def _holds(lock: Path, attempt: str) -> bool:
    """Whether the attempt still has its lock, and lives."""
    if holder(lock) is None:
        return False
    found = read_owner(lock)
    return found is not None and (found[0] is None or found[0].token == attempt)


def _ended(line: Mapping[str, Any]) -> float:
    return datetime.fromisoformat(line["started"]).timestamp() + line.get("seconds", 0.0)


def _speed(
    ended: list[dict[str, Any]], rest: int, count: Mapping[str, int], now: float
) -> list[str]:
    """Mean times, rate of the last hour, and when all will be done at that rate."""
    worked = [line for line in ended if line["status"] == "done" and line.get("products")]
    if not worked:
        return []
    mean = sum(line["seconds"] for line in worked) / len(worked)
    cpu = sum(line["cpu_seconds"] for line in worked) / len(worked)
    peak = max(line["peak_memory"] for line in worked)
    lines = [
        f"  an exposure took {mean:.1f} s, {cpu:.1f} s of CPU, at most {peak / 1e9:.2f} GB",
    ]
    begun = [_ended(line) - line["seconds"] for line in worked if now - _ended(line) <= WINDOW]
    if begun and count["running"]:
        rate = len(begun) / max(now - min(begun), 1e-3)
        end = rest / rate
        lines.append(
            f"  {rate * 3600:.0f} exposures an hour; "
            f"{rest} left, end about {clock(end)} (in {duration(end)})"
        )
    return lines
