"""All exposures of a campaign: clean up, do what is not finished, wait for other batches."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..engine.progress import Progress
from ..io.spill import stores_in_turn
from ..system.memory import available
from . import begun, manifest
from .fingerprint import product_files
from .locks import DEAD_AFTER, holder, lock_path, look
from .outcome import Outcome
from .plan import EXPOSURES, Item, Plan, needed, require_enough, stacks
from .work import Record, head, last_line, new_line, run_together, tidy, write_line

if TYPE_CHECKING:
    from distributed import Client

log = logging.getLogger(__name__)

LOOK = 1.0
"""Seconds between looks at exposures that another batch works on."""


def execute(outcome: Outcome, client: Client | None = None, *, show_progress: bool = False) -> None:
    """Do what is planned; `outcome` is filled on the way.

    Parameters
    ----------
    outcome : Outcome
    client : distributed.Client, optional
        Each exposure is one task of a worker. Default: in this process, a few at a time that have
        their references in common.
    show_progress : bool
        A bar on a terminal, a line now and then elsewhere.

    Raises
    ------
    InputError
        If the manifest cannot be written, or ``--memory`` is too little.
    """
    plan = outcome.plan
    if client is None:
        require_enough(plan)
    manifest.require_writable(plan.campaign.manifest)
    begun.tidy(plan.campaign.manifest)
    for item in plan.messy:
        tidy(item.work, item.config)
    for item in plan.finished:
        if item.work.unknown:
            _note_finished(item)
    _note_plan(plan)
    need = needed(plan, here=client is None)
    if client is None and need > (free := available()):
        log.warning(
            "this takes about %.1f GB of memory, %.1f GB are available", need / 1e9,
            free / 1e9,
        )  # fmt: skip
    todo: list[Item] = plan.todo
    with Progress(show_progress) as shown, shown.showing(outcome.rows):
        while todo:
            todo = _wait(outcome, _once(outcome, todo, client, need))


def _once(outcome: Outcome, todo: Sequence[Item], client: Client | None, need: int) -> list[Item]:
    """Go through exposures; those that other batches work on are returned."""
    held = []
    records = _here(outcome, todo) if client is None else _there(outcome, todo, client, need)
    for item, record in records:
        if record["status"] == "held":
            outcome.in_flight.pop(item.identity, None)
            item.by = record["by"]
            held.append(item)
        else:
            outcome.add(record)
    return held


def _note_plan(plan: Plan) -> None:
    """For ``status``; and should this batch not come to it, for the next one."""
    groups: dict[float | None, list[str]] = {}
    for item in plan.todo:
        since = item.work.since if item.work.redo else None
        groups.setdefault(since, []).append(item.identity)
    for since, identities in groups.items():
        for line in manifest.plan_lines(head(plan.batch, plan.options.share), since, identities):
            write_line(plan.campaign.manifest, line)


def _note_finished(item: Item) -> None:
    """The manifest is only a log: what it does not know of may have been done all the same."""
    files = [str(path) for paths in product_files(item.config).values() for path in paths]
    line = new_line(item.work, "done") | {"note": "found finished", "output": files}
    write_line(Path(item.work.manifest), line)


def _here(outcome: Outcome, items: Sequence[Item]) -> Iterator[tuple[Item, Record]]:
    """In this process, a few at a time that have their references in common."""
    with stores_in_turn():
        for some in stacks(items, outcome.plan.options.in_flight or EXPOSURES):
            outcome.in_flight.update({item.identity: item for item in some})
            yield from zip(some, run_together([item.work for item in some]), strict=True)


def _there(
    outcome: Outcome, items: Sequence[Item], client: Client, need: int
) -> Iterator[tuple[Item, Record]]:
    from .cluster import on_cluster

    return on_cluster(outcome, items, client, need)


def _wait(outcome: Outcome, held: list[Item]) -> list[Item]:
    """Wait for another batch to finish, or leave, one of the exposures that it works on.

    Returns
    -------
    list of Item
        Those to try (again).
    """
    said: set[str] = set()
    unknown: dict[str, float] = {}  # since when a lock could not be read
    while held:
        free = []
        for item in list(held):
            lock = lock_path(item.config.OUT)
            owner, stuck = look(lock)
            if owner is None or owner.token:
                unknown.pop(item.identity, None)
            else:
                since = unknown.setdefault(item.identity, time.monotonic())
                stuck = time.monotonic() - since > 2 * DEAD_AFTER
            if owner is None:
                held.remove(item)
                if failed := _failed_there(outcome.plan, item):
                    outcome.add(failed)
                else:
                    free.append(item)
            elif stuck:
                held.remove(item)
                who = f"{owner} holds {lock} and" if owner.token else f"who holds {lock}"
                error = f"{who} gives no sign of life"
                line = new_line(item.work, "failed") | {"error": error}
                write_line(Path(item.work.manifest), line)
                outcome.add(line)
            elif item.identity not in said:
                said.add(item.identity)
                log.info("%s: waiting for %s", item.identity, item.by)
        if free:
            return [*free, *held]
        if held:
            time.sleep(LOOK)
    return []


def _failed_there(plan: Plan, item: Item) -> Record | None:
    """The record of an exposure that failed in another batch while we waited for it."""
    last = last_line(plan.campaign.manifest, item.identity)
    before = plan.history.last.get(item.identity, {})
    if last.get("status") == "failed" and last.get("attempt") != before.get("attempt"):
        return last
    if last.get("status") == "failed" and before.get("status") == "running":
        return last
    return None


def _done_meanwhile(plan: Plan, item: Item) -> Record | None:
    """The record of an exposure that came to its end while its batch was interrupted."""
    last = last_line(plan.campaign.manifest, item.identity)
    return last if (last.get("status"), last.get("batch")) == ("done", plan.batch) else None


def after_interruption(outcome: Outcome) -> str:
    """Clean up after workers that were stopped in the middle of an exposure.

    Returns
    -------
    str
        Which exposures could not be cleaned up, such as those that workers of a cluster that goes
        on still work on; empty if all could.
    """
    left = []
    for identity, item in list(outcome.in_flight.items()):
        if not tidy(item.work, item.config):
            who = holder(lock_path(item.config.OUT))
            why = f"{who} works on it" if who else "its lock cannot be taken"
            left.append(f"{identity} ({why})")
        elif done := _done_meanwhile(outcome.plan, item):
            outcome.add(done)
    if not left:
        return ""
    return f"unfinished files may stay until the next batch, of {'; '.join(left)}"
