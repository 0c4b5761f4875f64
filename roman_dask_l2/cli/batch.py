"""``batch`` and ``status``: campaigns."""

from __future__ import annotations

import argparse
import contextlib
import logging
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..system.logs import PACKAGE_LOG
from ..system.stopping import elsewhere
from .options import Shared, check_scheduler, scheduler_of, wants_cluster

if TYPE_CHECKING:
    from ..batch.outcome import Outcome

log = logging.getLogger(__name__)

COMMANDS = ("batch", "status")


def add(commands: Any, shared: Shared) -> None:
    """Add the commands of this file to the command line."""
    batch = commands.add_parser(
        "batch",
        parents=[shared.common, shared.running, shared.cluster],
        help="calibrate all exposures of a campaign, but for those that are finished",
    )
    batch.add_argument("campaign", type=Path, help="YAML campaign file")
    batch.add_argument(
        "--dry-run", action="store_true", help="say what would be run, skipped and why; do nothing"
    )
    batch.add_argument(
        "--only",
        action="append",
        default=[],
        metavar="NAME=VALUE,...",
        help="only exposures that fit; values may be globs; may be given several times",
    )
    batch.add_argument(
        "--share",
        metavar="I/N",
        help="only the I-th of N shares of the campaign, I from 1 to N (for job arrays)",
    )
    batch.add_argument("--limit", type=int, metavar="N", help="run N exposures at most")
    batch.add_argument(
        "--failed-only", action="store_true", help="only exposures whose last attempt failed"
    )
    batch.add_argument("--redo", action="store_true", help="also what is finished")
    batch.add_argument(
        "--in-flight",
        type=int,
        metavar="N",
        help="exposures at a time: on a Dask cluster (default: one for each worker, as memory "
        "allows), or in this process, of those with the same reference files (default: 3)",
    )
    batch.add_argument(
        "--report",
        action="store_true",
        help="then write the reports of the exposures that are done, and one of the campaign",
    )
    batch.set_defaults(action=act)
    status = commands.add_parser("status", parents=[shared.common], help="how far a campaign is")
    status.add_argument("campaign", type=Path, help="YAML campaign file")
    status.set_defaults(action=show_status)


def act(args: argparse.Namespace) -> int:
    """``batch``: run what is not finished of a campaign."""
    from ..batch.outcome import Outcome
    from ..batch.plan import Options, make_plan
    from ..batch.run import after_interruption, execute

    if not args.debug:
        PACKAGE_LOG.handlers[0].addFilter(_of_the_batch)
    options = Options(
        only=tuple(args.only),
        share=args.share,
        failed_only=args.failed_only,
        redo=args.redo,
        limit=args.limit,
        in_flight=args.in_flight,
        scheduler="local" if wants_cluster(args) else args.scheduler,
        threads=args.threads,
        tile=args.tile,
        memory=None if wants_cluster(args) else args.memory,  # there it is that of a worker
    )
    check_scheduler(args)
    if args.report:
        from ..io.atomic import check_target
        from ..report.exposure import report_path
        from ..report.panels import figure_class

        # Reported before the work if it cannot be drawn or written.
        figure_class()
        check_target(report_path(args.campaign))
    plan = make_plan(args.campaign, options)
    if args.dry_run:
        sys.stdout.write("\n".join(plan.lines()) + "\n")
        return 0
    outcome = Outcome(plan)
    cluster = scheduler_of(args) if plan.todo else contextlib.nullcontext("local")
    try:
        with elsewhere(partial(after_interruption, outcome)), cluster as scheduler:
            client = None if isinstance(scheduler, str) else scheduler
            execute(outcome, client, show_progress=not args.quiet)
    except BaseException as error:
        left = after_interruption(outcome)
        if left and isinstance(error, KeyboardInterrupt):
            raise KeyboardInterrupt(left) from None
        if left:
            log.warning("%s", left)
        raise
    finally:
        sys.stdout.write("\n".join(outcome.lines()) + "\n")
    return max(outcome.status, _reports(outcome)) if args.report else outcome.status


def _reports(outcome: Outcome) -> int:
    """Reports of what this batch was asked for and is done, and of the campaign; the status."""
    from ..batch.outcome import FAILED
    from ..report.each import write_reports

    plan = outcome.plan
    made = {r["identity"] for r in outcome.records if r["status"] in ("done", "finished")}
    items = [*plan.finished, *(item for item in plan.todo if item.identity in made)]
    done = [(item.identity, item.config) for item in items]
    written, failed = write_reports(plan.campaign.path, done)
    if written is not None:
        sys.stdout.write(f"{written}\n")
    return FAILED if failed else 0


def _of_the_batch(record: logging.LogRecord) -> bool:
    """Of the work on single exposures a batch shows only what is wrong."""
    told = (
        "batch",
        "report.each",
        "engine.schedulers",
        "engine.clusters",
        "engine.watch",
        "engine.slurm",
    )
    names = tuple(f"{PACKAGE_LOG.name}.{part}" for part in told)
    return record.levelno >= logging.WARNING or record.name.startswith(names)


def show_status(args: argparse.Namespace) -> int:
    """``status``: how far a campaign is."""
    from ..batch.status import status_lines

    sys.stdout.write("\n".join(status_lines(args.campaign)) + "\n")
    return 0
