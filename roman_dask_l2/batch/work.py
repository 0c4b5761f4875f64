"""One exposure of a campaign: what is not finished of it, under its lock, and a record of it."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
import platform
import threading
import time
import uuid
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ..config.model import Config
from ..engine.options import RunOptions
from ..errors import InputError
from ..products.job import Job
from ..products.memory import projected
from ..products.provenance import Product
from ..products.quality import measure
from ..system.files import clock_ahead, status_now
from ..system.memory import peak, reset_peak, resident
from ..system.processes import age, give_back
from ..system.stopping import heard
from ..system.workarounds import forget_schemas
from . import begun, manifest
from .campaign import configuration
from .fingerprint import find_unfinished, product_files
from .folders import make_folders
from .leftovers import own_temp, remove_leftovers, remove_stores
from .locks import Owner, holder, is_lost, is_mine, lock_path, release, take
from .together import Course, Record, Request, Spent, run_attempts

log = logging.getLogger(__name__)

LEAVING = "leaving"
"""Status of an exposure that a worker has not begun, because its lifetime is nearly over."""

_one = threading.Lock()
_LONGEST = 800
"""Characters of an error message, so that a line of the manifest is one small write."""


@dataclass(frozen=True)
class Work:
    """All that is needed to do one exposure, anywhere; small.

    Attributes
    ----------
    identity : str
    settings : dict
        Its configuration.
    campaign, manifest : str
        Paths.
    batch : str
        Name of the batch, no other has it.
    share : str or None
    redo : tuple of str
        Products to make even if they are finished,
    since : float
        unless they were made after this time (s since 1970).
    messy : bool
        Something was left of it by a process that was killed.
    unknown : bool
        The manifest does not say that it is done.
    scheduler : str
    threads : int or None
    tile : str or None
    memory : str or None
        To stay under, as ``--memory`` of a single run.
    limit : float or None
        Bytes that a worker may have. Tiles and threads stay as they are where they fit.
    expected : float
        Seconds that it may take: a Dask worker that has less time left does not begin.
    beside : int
        Dask workers on one machine, which share its memory if they have no limit of their own.
    """

    identity: str
    settings: Mapping[str, Any] = field(repr=False)
    campaign: str
    manifest: str
    batch: str = ""
    share: str | None = None
    redo: tuple[Product, ...] = ()
    since: float = 0.0
    messy: bool = False
    unknown: bool = True
    scheduler: str = "local"
    threads: int | None = None
    tile: str | None = None
    memory: str | None = None
    limit: float | None = None
    expected: float = 0.0
    beside: int = 1


def run_exposure(work: Work) -> Record:
    """Make the products of one exposure that are not finished.

    Exposures of one process wait for each other: each uses all of its threads and memory.

    Returns
    -------
    dict
        The line that ends the attempt in the manifest, where this function has written it; or only
        ``identity`` and ``status`` ``finished``, or ``held`` with ``by``.

    Raises
    ------
    KeyboardInterrupt
        Once everything is cleaned up and the manifest says so. Nothing else: what goes wrong is in
        the record.
    """
    return run_together([work])[0]


def run_together(works: Sequence[Work]) -> list[Record]:
    """`run_exposure` for several, which are calibrated together where they have their references in
    common. What goes wrong with one of them is in its record only.

    Returns
    -------
    list of dict
        One for each of `works`.
    """
    # A Level-1 file that was renamed is no reason for a warning with each exposure.
    warnings.filterwarnings("ignore", message="meta.filename")
    with _one:
        return run_attempts([_Attempt(work).run() for work in works])


def on_worker(work: Work) -> Record:
    """`run_exposure` on a Dask worker, with the worker's threads and memory.

    Returns
    -------
    dict
        Also only ``identity``, ``status`` `LEAVING` and ``by``, the worker's address, if the
        exposure would not end before the worker's lifetime does: Dask then cuts it off after 30 s.
    """
    from distributed import get_worker
    from distributed.system import MEMORY_LIMIT  # of the machine or the control group

    worker = get_worker()
    if _ends_soon(worker.lifetime, work.expected):
        return {"identity": work.identity, "status": LEAVING, "by": worker.address}
    threads = work.threads or worker.state.nthreads
    memory = worker.memory_manager.memory_limit or MEMORY_LIMIT / work.beside
    return run_exposure(dataclasses.replace(work, threads=threads, limit=USABLE * memory))


def _ends_soon(lifetime: float | None, expected: float) -> bool:
    """Whether a worker's lifetime ends before an exposure does. Where no exposure fits into a
    lifetime, they are begun in its first half."""
    if not lifetime:
        return False
    return lifetime - age() < min(expected, lifetime / 2)


class _Attempt:
    """One go at an exposure."""

    def __init__(self, work: Work) -> None:
        self._work = work
        self._manifest = Path(work.manifest)
        self._token = uuid.uuid4().hex
        self._seconds: dict[str, float] = {}
        self._together = 1
        self._fingerprints: dict[Product, str] = {}
        self._reasons: Mapping[Product, str] = {}

    def run(self) -> Course:
        """The attempt, which asks for the products that it needs; its value is the record."""
        self._started = datetime.now(UTC)
        self._clock, self._cpu = time.monotonic(), time.process_time()
        reset_peak()
        try:
            config = configuration(self._work.settings, Path(self._work.campaign))
            make_folders(config)  # the lock is in one of them
            lock = lock_path(config.OUT)
            taken, other = take(lock, self._token)
        except Exception as error:
            return self._end("failed", error=_one_line(error))
        if not taken:
            return {"identity": self._work.identity, "status": "held", "by": str(other)}
        try:
            return (yield from self._locked(config, lock, other))
        except Exception as error:
            log.debug("%s failed", self._work.identity, exc_info=True)
            if is_lost(lock, self._token):
                return self._given_up(lock)
            self._clean(config, lock)
            return self._end("failed", error=_one_line(error))
        finally:
            release(lock)

    def _locked(self, config: Config, lock: Path, dead: Owner | None) -> Course:
        note_dead(self._manifest, self._work.identity, dead)
        if dead is not None or self._work.messy:
            remove_leftovers(config)
        reasons, self._fingerprints = find_unfinished(config)
        for product in self._work.redo:
            if product not in reasons and self._is_old(product_files(config)[product][0]):
                reasons[product] = "asked for"
        if not reasons:
            if self._work.unknown and not self._noted():
                self._done(config, note="found finished")
            return {"identity": self._work.identity, "status": "finished"}
        self._reasons = reasons
        self._begin(lock)
        for product, reason in reasons.items():
            log.debug("%s: %s: %s", self._work.identity, product, reason)
        try:
            with heard():
                yield from self._make(config, reasons)
            left, _ = find_unfinished(config)
            if left:
                product, reason = next(iter(left.items()))
                raise InputError(f"{product_files(config)[product][0]}: {reason}")
        except KeyboardInterrupt:
            self._clean(config, lock)
            self._end("interrupted", error="interrupted")
            raise
        return self._done(config)

    def _is_old(self, made: Path) -> bool:
        """Whether a product was made before it was asked for."""
        status = status_now(made)
        since = self._work.since + clock_ahead(Path(os.path.realpath(made)).parent)
        return status is None or status.st_mtime < since

    def _given_up(self, lock: Path) -> Record:
        """Others took this process for dead, and may have removed its files: what they make of the
        exposure counts."""
        by = str(holder(lock) or "another process")
        begun.forget(self._manifest, self._token)
        log.warning(
            "%s: was taken over by %s, this process had stood still", self._work.identity, by
        )
        return {"identity": self._work.identity, "status": "held", "by": by}

    def _clean(self, config: Config, lock: Path) -> None:
        """Remove the TEMP store, unless others took the lock: then it may be theirs."""
        if is_mine(lock, self._token):
            remove_stores(config)

    def _noted(self) -> bool:
        """Whether another batch has done it since this one began, and said so."""
        return last_line(self._manifest, self._work.identity).get("status") == "done"

    def _make(self, config: Config, reasons: Mapping[Product, str]) -> Iterator[Request]:
        from ..products.job import prepare

        forget_schemas()
        work = self._work
        options = RunOptions(scheduler=work.scheduler, threads=work.threads, tile=work.tile)
        # What is wrong with the noise is reported before all the work.
        job = prepare(config, noise="noise" in reasons)
        lock = lock_path(config.OUT)
        for product in ("l2", "noise"):
            if product not in reasons:
                continue
            if product == "noise":
                noise = {**config.raw["NOISE"], "TEMP": str(own_temp(config))}
                job = dataclasses.replace(job, config=config.replace(NOISE=noise))
            given = dataclasses.replace(options, memory=self._memory(job, product))
            asked = Request(product, job, given, lambda: is_lost(lock, self._token))
            with self._away(asked.spent):
                yield asked
            if asked.lost():  # it may have waited for others of its stack
                raise InputError(f"{lock}: was taken by another process")
            self._seconds[product] = round(asked.spent.seconds, 3)
            self._together = max(self._together, asked.spent.together)

    @contextlib.contextmanager
    def _away(self, spent: Spent) -> Iterator[None]:
        """Others work in this block: of its time, only what is `spent` counts."""
        began = Spent(time.monotonic(), time.process_time())
        try:
            yield
        finally:
            self._clock += time.monotonic() - began.seconds - spent.seconds
            self._cpu += time.process_time() - began.cpu_seconds - spent.cpu_seconds

    def _memory(self, job: Job, product: Product) -> str | float | None:
        """What the work on a product has to stay under, if tiles and threads depend on it."""
        work = self._work
        if work.limit is None:
            return work.memory
        usual = projected(job, product, work.tile, work.threads)
        return work.limit if usual > work.limit else None

    def _begin(self, lock: Path) -> None:
        """Note that the attempt has begun, should its process be killed."""
        line = self._line("running") | {"lock": str(lock), "reasons": self._reasons}
        try:
            begun.note(self._manifest, line)
        except OSError as error:
            log.warning(
                "%s: that %s has begun cannot be noted (%s)",
                begun.folder_of(self._manifest), self._work.identity, error.strerror,
            )  # fmt: skip

    def _line(self, status: str) -> Record:
        return new_line(self._work, status, self._token, self._started)

    def _done(self, config: Config, **more: Any) -> Record:
        """Write the line that ends the attempt, with what the report of a campaign shows."""
        return self._end("done", output=_outputs(config), quality=_quality(config), **more)

    def _end(self, status: str, **more: Any) -> Record:
        """Write the line that ends the attempt."""
        give_back()  # or the heap grows by a percent with every exposure, as it falls into pieces
        record = self._line(status) | {
            "ended": datetime.now(UTC).isoformat(timespec="milliseconds"),
            "reasons": self._reasons,
            "together": self._together,
            "seconds": round(time.monotonic() - self._clock, 3),
            "cpu_seconds": round(time.process_time() - self._cpu, 3),
            "peak_memory": peak(),
            "memory": resident(),
            "products": self._seconds,
            "fingerprint": self._fingerprints if status == "done" else {},
            "output": [],
            "error": None,
        }
        record |= more
        write_line(self._manifest, record)
        begun.forget(self._manifest, self._token)  # also where the line is lost: it is at an end
        return record


def new_line(
    work: Work, status: str, attempt: str | None = None, started: datetime | None = None
) -> Record:
    """What all lines on attempts have."""
    return {
        "attempt": attempt or uuid.uuid4().hex,
        "identity": work.identity,
        "status": status,
        **head(work.batch, work.share, started),
    }


def head(batch: str, share: str | None, started: datetime | None = None) -> Record:
    """What all lines of the manifest have, those of batches too."""
    return {
        "batch": batch,
        "started": (started or datetime.now(UTC)).isoformat(timespec="milliseconds"),
        "host": platform.node(),
        "pid": os.getpid(),
        "share": share,
    }


def write_line(path: Path, line: Mapping[str, Any]) -> bool:
    """Add a line to the manifest, and tell whether that went well; if not, it is no reason to
    stop."""
    try:
        manifest.append(path, line)
    except OSError as error:
        what = line.get("identity", "what this batch is going to do")
        log.warning("%s: %s cannot be noted (%s)", path, what, error.strerror)
        return False
    return True


def last_line(path: Path, identity: str) -> Record:
    """The last line of an exposure in the manifest; empty if there is none."""
    try:
        return manifest.read(path).last.get(identity, {})
    except InputError as error:
        log.warning("%s", error)
        return {}


def note_dead(path: Path, identity: str, dead: Owner | None) -> None:
    """Note the end of attempts that were killed and could not do so themselves; the caller holds
    the lock of the exposure."""
    over = [line for line in begun.read(path).values() if line["identity"] == identity]
    if not over and dead is None:
        return
    try:
        history = manifest.read(path)
    except InputError as error:
        log.warning("%s", error)
        return
    last = history.last.get(identity, {})
    if dead is not None and last.get("attempt") == dead.token and last not in over:
        over.append(last)  # of an earlier version, whose lines say what has begun
    known = {line["attempt"] for line in history.ended}
    for line in over:
        noted = line["status"] != "running" or line["attempt"] in known
        end = {key: value for key, value in line.items() if key != "lock"}
        who = f"process {line.get('pid')} on {line.get('host')} was killed"
        if noted or write_line(path, end | {"status": "interrupted", "error": who}):
            begun.forget(path, line["attempt"])


def tidy(work: Work, config: Config) -> bool:
    """Clean up after a dead process, where no living one works on the exposure.

    Returns
    -------
    bool
        False if the exposure's lock is held, or cannot be taken.
    """
    lock = lock_path(config.OUT)
    try:
        taken, dead = take(lock, uuid.uuid4().hex)
    except InputError:
        return False
    if not taken:
        return False
    try:
        note_dead(Path(work.manifest), work.identity, dead)
        remove_leftovers(config)
    finally:
        release(lock)
    return True


def _outputs(config: Config) -> list[str]:
    return [str(path) for paths in product_files(config).values() for path in paths]


def _quality(config: Config) -> dict[str, Any]:
    """Numbers that tell whether the exposure is good; none if its file does not give them."""
    try:
        return measure(config.OUT, None if config.NOISE is None else config.NOISE.OUT)
    except InputError as error:
        log.debug("%s", error)
        return {}


def _one_line(error: Exception) -> str:
    """What went wrong, in one line."""
    if isinstance(error, InputError):
        text = "; ".join(error.problems)
    else:
        first = (str(error).strip().splitlines() or [""])[0]
        text = f"{type(error).__name__}: {first}"
    text = " ".join(text.split())
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."


USABLE = 0.9
"""Part of a worker's memory that an exposure may take: at 95 % Dask kills the worker."""
