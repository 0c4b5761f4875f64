"""How far a campaign is, from its manifest."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from ..system.text import clock, duration, table
from . import manifest
from .campaign import load_campaign
from .locks import holder, read_owner
from .manifest import History

NAMES = ("done", "failed", "running", "interrupted", "not begun", "waiting", "to make again")
"""States of an exposure. Waiting: what failed, was interrupted, or was finished before, and a batch
that is running will do. To make again: what an interrupted ``--redo`` did not come to."""
RARE = ("waiting", "to make again")
"""States that are told only if there are such exposures."""
AGAIN = "run the batch again, it continues where it stopped"
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
    states, live = find_states((entry.identity for entry in campaign.entries), history)
    count = Counter(states.values())
    lines = [f"{path}: {len(states)} exposures"]
    lines += [f"  {n:12} {count[n]:7}" for n in NAMES if count[n] or n not in RARE]
    gone = sum(identity not in states for identity in history.last)
    if gone:
        lines.append(f"  {gone} more in the manifest are not in the campaign any more")
    begun = sum(
        now_is in ("running", "waiting", "not begun") and history.planned.get(identity) in live
        for identity, now_is in states.items()
    )
    lines += _speed(history.ended, begun, live, now)
    failures = [
        (identity, what_happened(found, history.last[identity]))
        for identity, found in states.items()
        if found in ("failed", "interrupted")
    ]
    if failures:
        lines += ["", *table(("not done", "error"), failures[:_SHOWN])]
        if len(failures) > _SHOWN:
            lines.append(f"and {len(failures) - _SHOWN} more")
    return lines


def find_states(
    identities: Iterable[str], history: History
) -> tuple[dict[str, str], frozenset[str]]:
    """What the manifest says of some exposures.

    Returns
    -------
    states : dict
        Identity -> one of `NAMES`.
    live : frozenset of str
        Names of the batches that are running: those with an exposure at work.
    """
    ends = {identity: _by_itself(history.last.get(identity)) for identity in identities}
    running = (history.last[identity] for identity, now in ends.items() if now == "running")
    live = frozenset(line["batch"] for line in running if line.get("batch"))
    states = {}
    for identity, now in ends.items():
        if now not in ("running", "not begun") and history.planned.get(identity) in live:
            now = "waiting"
        elif now == "done" and identity in history.redo:
            now = "to make again"
        states[identity] = now
    return states, live


def what_happened(state: str, line: Mapping[str, Any]) -> str:
    """Why an exposure is not done, and what to do if the answer is always the same."""
    error = line.get("error") or ""
    if state != "interrupted":
        return error
    why = error if error not in ("", state) else ""
    return f"{why}; {AGAIN}" if why else AGAIN


def _by_itself(line: Mapping[str, Any] | None) -> str:
    """State of an exposure, from its last line alone."""
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
    if "ended" in line:
        return datetime.fromisoformat(line["ended"]).timestamp()
    return datetime.fromisoformat(line["started"]).timestamp() + line.get("seconds", 0.0)


def _speed(ended: list[dict[str, Any]], rest: int, live: Collection[str], now: float) -> list[str]:
    """Mean times; rate of what is running, over the last hour, and when it will be done with the
    `rest` at that rate."""
    worked = [line for line in ended if line["status"] == "done" and line.get("products")]
    if not worked:
        return []
    mean = sum(line["seconds"] for line in worked) / len(worked)
    cpu = sum(line["cpu_seconds"] for line in worked) / len(worked)
    peak = max(line["peak_memory"] for line in worked)
    lines = [
        f"  an exposure took {mean:.1f} s, {cpu:.1f} s of CPU, at most {peak / 1e9:.2f} GB",
    ]
    # Failed ones count: they take their time too. What earlier batches did says nothing.
    recent = [line for line in ended if "seconds" in line and now - _ended(line) <= WINDOW]
    begun = [_ended(line) - line["seconds"] for line in recent if line.get("batch") in live]
    if begun and rest:
        rate = len(begun) / max(now - min(begun), 1e-3)
        end = rest / rate
        lines.append(
            f"  {rate * 3600:.0f} exposures an hour; "
            f"{rest} left, end about {clock(end)} (in {duration(end)})"
        )
    return lines
