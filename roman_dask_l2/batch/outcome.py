"""What a batch has done so far, in numbers and lines."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass, field

from ..engine.progress import Row
from ..system.text import clock, duration, table
from .plan import Item, Plan
from .status import AGAIN
from .work import Record

log = logging.getLogger(__name__)

FAILED = 4
"""Exit status of a batch in which some exposures failed."""
_ROWS = 60
"""Rows of the final table; of larger batches it shows only what is not done."""


@dataclass
class Outcome:
    """What a batch has done so far.

    Attributes
    ----------
    plan : Plan
    records : list of dict
        Attempts that ended, and exposures that turned out to be finished.
    in_flight : dict of str to Item
        Exposures at work.
    """

    plan: Plan
    records: list[Record] = field(default_factory=list)
    in_flight: dict[str, Item] = field(default_factory=dict)
    _began: float = field(default_factory=time.monotonic)
    _last: float = 0.0

    def count(self, *statuses: str) -> int:
        return sum(record["status"] in statuses for record in self.records)

    @property
    def left(self) -> int:
        return len(self.plan.todo) - len(self.records)

    @property
    def status(self) -> int:
        """Exit status."""
        return FAILED if self.count("failed") else 0

    def add(self, record: Record) -> None:
        """Take a result, and tell how far the batch is."""
        self.in_flight.pop(record["identity"], None)
        self.records.append(record)
        self._last = time.monotonic()
        if record["status"] == "failed":
            log.error("%s: failed: %s", record["identity"], record["error"])
        spent = f", {record['seconds']:.1f} s" if record.get("seconds") else ""
        log.info(
            "%s: %s%s; %s", record["identity"], record["status"], spent, self._so_far(),
            extra={"stage": "exposure", "fields": record},
        )  # fmt: skip

    def rows(self) -> list[Row]:
        """How far the batch is, for a display."""
        total = len(self.plan.todo)
        text = f"{self._so_far()}, {len(self.in_flight)} at work"
        return [Row("exposures", total - self.left, total, text)]

    def _so_far(self) -> str:
        done, failed = self.count("done", "finished"), self.count("failed")
        return f"{done} done, {failed} failed, {self.left} left{self._end()}"

    def _end(self) -> str:
        if not self.left or not self.records:
            return ""
        each = (self._last - self._began) / len(self.records)
        # Those at work have begun; where they take longer than usual, the end moves.
        since = time.monotonic() - self._last
        rest = max(each * self.left - since, each * (self.left - 1), 0.0)
        return f", end about {clock(rest)} (in {duration(rest)})"

    def lines(self) -> list[str]:
        """The final table."""
        rows = self.records
        if len(rows) > _ROWS:
            rows = [r for r in rows if r["status"] not in ("done", "finished")]
        cells = [
            (r["identity"], r["status"], *_measured(r), r.get("error") or "") for r in rows
        ] + [(identity, "interrupted", "", "", "", AGAIN) for identity in self.in_flight]
        names = ("exposure", "status", "seconds", "CPU s", "peak GB", "error")
        before = len(self.plan.finished) + self.count("finished")
        rest = self.left - len(self.in_flight) + len(self.plan.beyond)
        counts = [f"{self.count('done')} done", f"{before} finished before"]
        counts += [f"{self.count('failed')} failed"]
        counts += [f"{len(self.in_flight)} interrupted"] * bool(self.in_flight)
        counts += [f"{rest} left"] * bool(rest)
        spent = duration(time.monotonic() - self._began)
        return [*table(names, cells), f"{', '.join(counts)}; {spent}"]


def _measured(record: Record) -> tuple[str, str, str]:
    if "seconds" not in record:
        return "", "", ""
    peak = f"{record['peak_memory'] / 1e9:.2f}"
    return f"{record['seconds']:.1f}", f"{record['cpu_seconds']:.1f}", peak
