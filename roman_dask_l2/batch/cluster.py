"""Exposures as tasks of a Dask cluster."""

from __future__ import annotations

import logging
import uuid
from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import memory
from .outcome import Outcome
from .plan import Item
from .work import Record, new_line, on_worker, tidy, write_line

if TYPE_CHECKING:
    from distributed import Client, Future

log = logging.getLogger(__name__)

LOOK = 1.0
"""Seconds between looks at the workers: new ones may have come."""


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
    flying: dict[Future, tuple[Item, str]] = {}
    cap = outcome.plan.options.in_flight
    by_memory = _cap_here(client, need)
    while queue or flying:
        used = {address for _, address in flying.values()}
        workers = _workers(client, need)
        free = [address for address in workers if address not in used]
        room = min(cap or len(workers), by_memory or len(workers)) - len(flying)
        if not workers and not flying:
            free, room = [""], 1  # one that waits for a worker; the wait has a limit
        for address in free[: max(room, 0)]:
            if queue:
                item = queue.popleft()
                outcome.flying[item.identity] = item
                flying[_submit(client, item, address)] = item, address
        try:
            done = wait(list(flying), timeout=LOOK, return_when="FIRST_COMPLETED").done
        except TimeoutError:
            continue
        for future in done:
            item, _ = flying.pop(future)
            yield item, _result(future, item)


def _submit(client: Client, item: Item, address: str) -> Future:
    where: dict[str, Any] = {}
    if address:
        where = {"workers": [address], "allow_other_workers": True}
    key = f"exposure-{item.identity}-{uuid.uuid4().hex}"
    return client.submit(on_worker, item.work, key=key, pure=False, **where)


def _result(future: Future, item: Item) -> Record:
    """The record, also of an exposure that took its worker down with it."""
    from distributed import KilledWorker

    if future.status != "error":
        return future.result()  # raises if the whole run was given up
    error = future.exception()
    if isinstance(error, KilledWorker):
        text = f"its worker died {error.allowed_failures + 1} times (too little memory?)"
    else:
        text = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"
    tidy(item.work, item.config)
    line = new_line(item.work, "failed") | {"error": text}
    write_line(Path(item.work.manifest), line)
    return line


def _workers(client: Client, need: int) -> list[str]:
    """Addresses of the workers with memory enough for an exposure; of all if none has."""
    limits: dict[str, int] = client.run_on_scheduler(_memory_limits)
    enough = [address for address, limit in limits.items() if not limit or limit >= need]
    return enough or [*limits]


def _memory_limits(dask_scheduler: Any) -> dict[str, int]:
    """Runs on the scheduler."""
    return {worker.address: worker.memory_limit for worker in dask_scheduler.workers.values()}


def _cap_here(client: Client, need: int) -> int:
    """Exposures at a time for which this machine has memory, if the workers are here; else 0."""
    if type(client.cluster).__name__ != "LocalCluster" or not need:
        return 0
    free = memory.available()
    cap = max(free // need, 1)
    if cap < len(client.nthreads()):
        log.warning(
            "exposures at a time: %d; each takes about %.1f GB of memory, %.1f GB are available",
            cap, need / 1e9, free / 1e9,
        )  # fmt: skip
    return cap
