"""How far a run is: bars on a terminal, a line now and then elsewhere.

What is counted are Dask tasks, by name. In this process Dask tells of each one that has ended. The
scheduler of a cluster is asked now and then: so what a lost worker took with it is to be done
again. Nothing is added to what a task does.
"""

from __future__ import annotations

import contextlib
import logging
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from dask.callbacks import Callback

from ..system.text import duration

if TYPE_CHECKING:
    from distributed import Client

log = logging.getLogger(__name__)

HEARTBEAT = 30.0
"""Seconds between lines where there is no terminal."""
LOOK = 1.0
"""Seconds between looks at what has changed."""
REDRAW = 0.25
"""Seconds between looks where there are bars to be drawn."""
TODO = ("waiting", "no-worker", "queued", "processing")
"""States of a task that is to be done, as the scheduler of a cluster calls them."""


@dataclass(frozen=True)
class Row:
    """One line of what is shown.

    Attributes
    ----------
    name : str
    done, total : int
        The bar; without a total it only moves.
    text : str
        Stands behind the bar, or in the log.
    """

    name: str
    done: int = 0
    total: int | None = None
    text: str = ""


@dataclass
class Stage:
    """A part of a run whose tasks are counted.

    Attributes
    ----------
    name : str
    tasks : dict of str to int
        Name of Dask tasks -> how many there are.
    unit : str
        What a task is.
    began, ended : float or None
        Unix times.
    """

    name: str
    tasks: Mapping[str, int]
    unit: str = "parts"
    began: float | None = None
    ended: float | None = None
    _done: dict[str, int] = field(default_factory=dict)
    _first: tuple[float, int] | None = None

    @property
    def total(self) -> int:
        return sum(self.tasks.values())

    @property
    def done(self) -> int:
        return sum(self._done.values())

    def row(self, now: float) -> Row:
        """Count, rate and time left.

        The rate is that since the first tasks were done: those wait for libraries and compilers. It
        falls when nothing moves any more, and so the time left grows.
        """
        done, total = self.done, self.total
        text = f"{done} of {total} {self.unit}"
        if done and self._first is None:
            self._first = (now, done)
        if self._first is not None:
            since, before = self._first
            if done > before and now > since:
                rate = (done - before) / (now - since)
                text += f", {_rate(rate)}, {duration((total - done) / rate)} left"
        return Row(self.name, done, total, text)


def _rate(rate: float) -> str:
    """``12.3/s``, or ``7.4/min`` where that is less than one each second."""
    return f"{rate:.1f}/s" if rate >= 1 else f"{60 * rate:.1f}/min"


class Progress:
    """The stages of a run: how long each took, and how far those are whose tasks are counted.

    Parameters
    ----------
    enabled : bool
        Whether to show anything while a stage lasts.

    Attributes
    ----------
    seconds : dict of str to float
        Wall time of the stages that have ended.
    """

    def __init__(self, enabled: bool = False) -> None:
        self.seconds: dict[str, float] = {}
        self._enabled = enabled
        self._last = time.time()
        self._now: tuple[str, float] | None = None
        self._stages: list[Stage] = []
        self._by_task: dict[str, Stage] = {}
        self._told: set[str] = set()
        self._in_turn = True
        self._workers: int | None = None
        self._ask: Callable[[], None] | None = None
        self._rows: Callable[[], Sequence[Row]] = self._active
        self._over = threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> Progress:
        if self._enabled:
            self._thread = threading.Thread(target=self._watch, name="progress", daemon=True)
            self._thread.start()
        return self

    def __exit__(self, *error: Any) -> None:
        self._over.set()
        if self._thread is not None:
            self._thread.join(timeout=10)

    # -- stages

    def begin(self, name: str) -> None:
        """A stage whose work cannot be counted has begun."""
        self._now = (name, time.time())

    def stage(self, name: str, until: float | None = None) -> None:
        """A stage has ended, now or at a Unix time (that a worker's clock has shown)."""
        now = max(time.time() if until is None else until, self._last)
        self.seconds[name] = now - self._last
        self._last, self._now = now, None
        self._tell(name, self.seconds[name])

    def _tell(self, name: str, seconds: float, more: str = "") -> None:
        if name not in self._told:
            self._told.add(name)
            log.info(
                "%-10s %7.2f s%s", name, seconds, more,
                extra={"stage": name, "fields": {"seconds": round(seconds, 3)}},
            )  # fmt: skip

    @contextlib.contextmanager
    def counting(
        self, stages: Sequence[Stage], client: Client | None = None, *, in_turn: bool = True
    ) -> Iterator[None]:
        """Count the tasks of these stages, which are computed in the block.

        Parameters
        ----------
        stages : sequence of Stage
            In the order in which they begin.
        client : distributed.Client, optional
            Default: they are computed in this process.
        in_turn : bool
            Each stage begins where the one before it ends; otherwise with its first task.
        """
        if not self._enabled:
            yield
            return
        self._stages = list(stages)
        self._by_task = {name: stage for stage in stages for name in stage.tasks}
        self._in_turn = in_turn
        if self._stages:
            self._stages[0].began = self._last
        if client is not None:
            self._ask = _Question(client, self._stages, self._answer)
        counter = _Counter(self._one_begins, self._one_ends)
        with counter if client is None else contextlib.nullcontext():
            yield
        self._ask = None
        # What the scheduler was not asked about any more is done all the same.
        for stage in () if in_turn else self._stages:
            if stage.ended is None:
                self._ends(stage, time.time())
        self._stages = []

    @contextlib.contextmanager
    def showing(self, rows: Callable[[], Sequence[Row]]) -> Iterator[None]:
        """Show what `rows` returns, as long as the block lasts."""
        self._rows = rows
        try:
            yield
        finally:
            self._rows = self._active

    # -- counts

    def _one_begins(self, name: str) -> None:
        """A task begins in this process."""
        stage = self._by_task.get(name)
        if stage is not None and stage.began is None and not self._in_turn:
            stage.began = time.time()

    def _one_ends(self, name: str) -> None:
        """A task has ended in this process."""
        stage = self._by_task.get(name)
        if stage is not None:
            stage._done[name] = stage._done.get(name, 0) + 1
            if stage.done == stage.total:
                self._ends(stage, time.time())

    def _answer(self, known: Mapping[str, _Group], workers: int) -> None:
        """The scheduler has told what it knows of tasks; what it has forgotten is done."""
        self._workers = workers
        for stage in self._stages:
            groups = [known[name] for name in stage.tasks if name in known]
            for name, total in stage.tasks.items():
                stage._done[name] = total - (known[name].left if name in known else 0)
            begun = [group.start for group in groups if group.start]
            if stage.began is None and begun and not self._in_turn:
                stage.began = min(begun)
            if stage.done < stage.total:
                stage.ended = None  # again, if a worker is lost with what it had done
            elif stage.ended is None:
                all_known = len(groups) == len(stage.tasks)
                self._ends(stage, max(group.stop for group in groups) if all_known else None)

    def _ends(self, stage: Stage, when: float | None) -> None:
        """The last task of a stage has ended, at a Unix time if that is known."""
        at = self._stages.index(stage)
        if self._in_turn and at and self._stages[at - 1].ended is None:
            return
        stage.ended = time.time() if when is None else when
        in_order = not self._in_turn or not at or self._stages[at - 1].name in self._told
        if when is not None and stage.began is not None and in_order:
            seconds = max(when - stage.began, 0.0)
            self._tell(stage.name, seconds, f", {stage.total} {stage.unit}")
        if self._in_turn and at + 1 < len(self._stages):
            following = self._stages[at + 1]
            if following.began is None:
                following.began = stage.ended
            if following.done == following.total:
                self._ends(following, stage.ended)

    # -- what is shown

    def _active(self) -> list[Row]:
        """Stages that have begun and not ended."""
        now = time.time()
        rows = [s.row(now) for s in self._stages if s.began is not None and s.ended is None]
        if self._now is not None:
            rows.append(Row(self._now[0], text=duration(now - self._now[1])))
        return rows

    def _watch(self) -> None:
        """Look now and then; runs in a thread."""
        try:
            if sys.stderr.isatty():
                self._draw()
            else:
                self._beat()
        except Exception:  # a display that fails is no reason for the run to fail
            log.debug("progress is not shown any more", exc_info=True)

    def _beat(self) -> None:
        spoken = time.monotonic()
        while not self._over.wait(min(LOOK, HEARTBEAT)):
            if self._ask is not None:
                self._ask()
            if time.monotonic() - spoken < HEARTBEAT:
                continue
            spoken = time.monotonic()
            rows = self._rows()
            words = [f"{row.name}: {row.text}" for row in rows]
            if self._workers is not None:
                words.append(f"{self._workers} workers")
            if rows:
                fields = [{"stage": r.name, "done": r.done, "total": r.total} for r in rows]
                log.info("; ".join(words), extra={"fields": {"progress": fields}})

    def _draw(self) -> None:
        from rich import progress as bars
        from rich.console import Console

        columns = (
            bars.TextColumn("{task.description}", markup=False),
            bars.BarColumn(),
            bars.TextColumn("{task.fields[text]}", markup=False),
        )
        shown: dict[str, bars.TaskID] = {}
        asked = time.monotonic()
        with bars.Progress(
            *columns,
            console=Console(stderr=True),
            transient=True,
            auto_refresh=False,
            redirect_stdout=False,
        ) as display:
            while not self._over.wait(REDRAW):
                if self._ask is not None and time.monotonic() - asked >= LOOK:
                    self._ask()
                    asked = time.monotonic()
                rows = {row.name: row for row in self._rows()}
                for name in [name for name in shown if name not in rows]:
                    display.remove_task(shown.pop(name))
                for name, row in rows.items():
                    if name not in shown:
                        shown[name] = display.add_task(name, total=None, text="")
                    display.update(shown[name], completed=row.done, total=row.total, text=row.text)
                display.refresh()


class _Counter(Callback):
    """Tells the name of each task that begins and ends, in the thread that waits for them all."""

    def __init__(self, begins: Callable[[str], None], ends: Callable[[str], None]) -> None:
        super().__init__()
        self._begins, self._ends = begins, ends

    def _pretask(self, key: Any, dsk: Any, state: Any) -> None:
        self._begins(key[0] if isinstance(key, tuple) else key)

    def _posttask(self, key: Any, result: Any, dsk: Any, state: Any, worker: Any) -> None:
        self._ends(key[0] if isinstance(key, tuple) else key)


class _Group(NamedTuple):
    """What a scheduler knows of the tasks of one name."""

    left: int
    start: float
    stop: float


class _Question:
    """Asks the scheduler of a cluster how far it is with some stages."""

    def __init__(
        self,
        client: Client,
        stages: Sequence[Stage],
        answer: Callable[[Mapping[str, _Group], int], None],
    ) -> None:
        self._client, self._answer = client, answer
        self._names = [name for stage in stages for name in stage.tasks]
        self._begun = False

    def __call__(self) -> None:
        try:
            known, workers = self._client.run_on_scheduler(_known, self._names)
        except Exception:  # no scheduler: whoever waits for the results sees that
            return
        self._begun |= bool(known)  # all tasks come to the scheduler together
        if self._begun:
            groups = {name: _Group(*values) for name, values in known.items()}
            self._answer(groups, workers)


def _known(
    names: Sequence[str], dask_scheduler: Any
) -> tuple[dict[str, tuple[int, float, float]], int]:
    """Of the tasks of each name how many are to be done, and when the first began and the last
    ended; runs on the scheduler."""
    groups = {n: dask_scheduler.task_groups[n] for n in names if n in dask_scheduler.task_groups}
    found = {
        name: (sum(group.states[state] for state in TODO), group.start, group.stop)
        for name, group in groups.items()
    }
    return found, len(dask_scheduler.workers)
