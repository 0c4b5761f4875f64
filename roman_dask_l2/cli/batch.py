"""``batch`` and ``status``: campaigns."""

from __future__ import annotations

import argparse
import contextlib
import logging
import sys
from pathlib import Path
from typing import Any

from .look import _report
from .run import _check_scheduler, _running, _wants_cluster

log = logging.getLogger(__name__)


def _add_batch(commands: Any, common: Any, running: list[Any]) -> None:
    """The sub-commands for campaigns of many exposures."""
    batch = commands.add_parser(
        "batch",
        parents=[common, *running],
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
        help="exposures at a time on a Dask cluster (default: one for each worker, as memory "
        "allows)",
    )
    batch.set_defaults(action=_batch)
    status = commands.add_parser("status", parents=[common], help="how far a campaign is")
    status.add_argument("campaign", type=Path, help="YAML campaign file")
    status.set_defaults(action=_status)
    report = commands.add_parser(
        "report", parents=[common], help="write a report of an exposure or a campaign (HTML)"
    )
    report.add_argument(
        "file", type=Path, help="Level-2 file, its configuration, or a campaign file"
    )
    report.add_argument(
        "-o", "--output", type=Path, metavar="FILE", help="default: beside it, NAME_report.html"
    )
    report.add_argument(
        "--png", type=Path, metavar="DIR", help="also write each plot as a PNG into this folder"
    )
    report.add_argument(
        "--noise", type=Path, metavar="FILE", help="noise file (default: as the Level-2 file says)"
    )
    report.set_defaults(action=_report)


def _batch(args: argparse.Namespace) -> int:
    from ..batch.outcome import Outcome
    from ..batch.plan import Options, make_plan
    from ..batch.run import after_interruption, execute

    if not args.debug:
        log.handlers[0].addFilter(_of_the_batch)
    options = Options(
        only=tuple(args.only),
        share=args.share,
        failed_only=args.failed_only,
        redo=args.redo,
        limit=args.limit,
        in_flight=args.in_flight,
        scheduler="local" if _wants_cluster(args) else args.scheduler,
        threads=args.threads,
        tile=args.tile,
        memory=None if _wants_cluster(args) else args.memory,  # there it is that of a worker
    )
    _check_scheduler(args)
    plan = make_plan(args.campaign, options)
    if args.dry_run:
        sys.stdout.write("\n".join(plan.lines()) + "\n")
        return 0
    outcome = Outcome(plan)
    cluster = _running(args) if plan.todo else contextlib.nullcontext("local")
    try:
        with cluster as scheduler:
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
    return outcome.status


def _of_the_batch(record: logging.LogRecord) -> bool:
    """Of the work on single exposures a batch shows only what is wrong."""
    part = record.name.removeprefix("roman_dask_l2.").partition(".")[0]
    return record.levelno >= logging.WARNING or part in ("batch", "schedulers", "slurm")


def _status(args: argparse.Namespace) -> int:
    from ..batch.status import status_lines

    sys.stdout.write("\n".join(status_lines(args.campaign)) + "\n")
    return 0
