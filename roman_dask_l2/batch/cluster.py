"""Exposures as tasks of a Dask cluster."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import sys
import uuid
from collections import Counter, deque
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..system import memory
from ..system.workarounds import forget_request
from .outcome import Outcome
from .plan import Item
from .work import LEAVING, Record, last_line, new_line, on_worker, tidy, write_line

if TYPE_CHECKING:
    from distributed import Client, Future

log = logging.getLogger(__name__)

FETCH = 60.0
"""Seconds that a worker has to hand over a record."""
LOOK = 1.0
"""Seconds between looks at the workers: new ones may have come."""
LONGER = 1.2
"""Times the longest exposure so far that the next one may take."""


def on_cluster(
    outcome: Outcome, items: Sequence[Item], client: Client, need: int
) -> Iterator[tuple[Item, Record]]:
    """Each exposure as one task of a Dask worker, at most one on a worker at a time.

    Parameters
    ----------
    outcome : Outcome
    items : sequence of Item
    client : distributed.Client
    need : int
        Bytes of memory that an exposure takes.

    Yields
    ------
    Item, dict
        With its record, in the order in which they end.
    """
    from distributed import wait

    queue = deque(items)
    in_flight: dict[Future, Item] = {}
    most = _most_at_a_time(client, need, outcome.plan.options.in_flight)
    longest = max(map(_seconds, outcome.plan.history.ended), default=0.0)
    while queue or in_flight:
        # At least one: where there is no worker it waits for one, and that wait has a limit.
        workers = list(client.nthreads())
        room = max(min(len(workers), most), 1) - len(in_flight)
        for _ in range(min(room, len(queue))):
            item = queue.popleft()
            outcome.in_flight[item.identity] = item
            # Not pinned to a worker: one that is pinned is never run if its worker dies while there
            # is no other (distributed 2026.8).
            key = f"exposure-{item.identity}-{uuid.uuid4().hex}"
            expected, beside = LONGER * longest, _beside(workers)
            work = dataclasses.replace(item.work, expected=expected, beside=beside)
            in_flight[client.submit(on_worker, work, key=key, pure=False)] = item
        for future in _ended(list(in_flight), wait):
            try:
                record = _result(future, in_flight[future], outcome)
            except TimeoutError:  # the result was lost with its worker; the task is done again
                continue
            item = in_flight.pop(future)
            if record["status"] == LEAVING:
                del outcome.in_flight[item.identity]
                queue.appendleft(item)
                future.release()
                _retire(client, record["by"])
                continue
            longest = max(longest, _seconds(record))
            yield item, record


def _beside(workers: Collection[str]) -> int:
    """Most workers that are on one machine."""
    hosts = Counter(address.rpartition(":")[0] for address in workers)
    return max(hosts.values(), default=1)


def _seconds(record: Record) -> float:
    """What an exposure took; 0 if nothing was made."""
    made = record["status"] == "done" and record.get("products")
    return record["seconds"] if made else 0.0


def _retire(client: Client, address: str) -> None:
    """Let a worker go that has no time left for an exposure."""
    log.info("worker %s has no time left for an exposure and leaves", address)
    with contextlib.suppress(OSError, ValueError):  # it has gone by itself
        client.retire_workers(workers=[address])


def _ended(futures: list[Future], wait: Any) -> Collection[Future]:
    try:
        return wait(futures, timeout=LOOK, return_when="FIRST_COMPLETED").done
    except TimeoutError:
        return []


def _result(future: Future, item: Item, outcome: Outcome) -> Record:
    """The record, also of an exposure that took its worker down with it."""
    from distributed import KilledWorker

    if future.status in ("pending", "lost"):
        raise TimeoutError
    if future.status != "error":
        record = _fetched(future)
        return record if record["status"] != "finished" else _found(record, item, outcome)
    error = future.exception()
    if isinstance(error, KilledWorker):
        text = f"its worker died {error.allowed_failures + 1} times (too little memory?)"
    else:
        text = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
    tidy(item.work, item.config)
    line = new_line(item.work, "failed") | {"error": text}
    write_line(Path(item.work.manifest), line)
    return line


def _fetched(future: Future) -> Record:
    """The result of a task that is done; raises if the whole run was given up.

    A request that takes too long is cancelled, and with it what others wait for: all that come
    after it would fail at once, with an error that is none (distributed 2026.8). So it has its
    time, and the next one is a new one.
    """
    try:
        record: Record = future.result(timeout=FETCH)
    except (TimeoutError, UnboundLocalError):
        forget_request(future.client)
        raise TimeoutError from None
    return record


def _found(record: Record, item: Item, outcome: Outcome) -> Record:
    """A worker that died after it had finished an exposure took the record with it; the manifest
    has it."""
    last = last_line(Path(item.work.manifest), item.identity)
    before = outcome.plan.history.last.get(item.identity, {})
    ours = last.get("status") == "done" and last["attempt"] != before.get("attempt")
    return last if ours and not item.by else record


def _memory_limits(dask_scheduler: Any) -> dict[str, int]:
    """Runs on the scheduler."""
    return {worker.address: worker.memory_limit for worker in dask_scheduler.workers.values()}


def _most_at_a_time(client: Client, need: int, in_flight: int | None) -> int:
    """Exposures at a time that were asked for, and for which this machine has memory if the workers
    are here."""
    limits: dict[str, int] = client.run_on_scheduler(_memory_limits)
    small = [limit for limit in limits.values() if 0 < limit < need]
    if small:
        log.warning(
            "an exposure takes about %.1f GB of memory, %d of %d workers have less, %.1f GB at "
            "least: they take smaller tiles and fewer threads",
            need / 1e9, len(small), len(limits), min(small) / 1e9,
        )  # fmt: skip
    most = in_flight or sys.maxsize
    if type(client.cluster).__name__ != "LocalCluster" or not need:
        return most
    free = memory.available()
    cap = max(free // need, 1)
    if cap < min(len(limits), most):
        log.warning(
            "exposures at a time: %d; each takes about %.1f GB of memory, %.1f GB are available",
            cap, need / 1e9, free / 1e9,
        )  # fmt: skip
    return min(cap, most)
