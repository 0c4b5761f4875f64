"""``run`` and ``validate``: one exposure."""

from __future__ import annotations

import argparse
import contextlib
import logging
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ..errors import InputError

log = logging.getLogger(__name__)


def _run(args: argparse.Namespace) -> int:
    from ..config.model import load_config
    from ..products.job import prepare
    from ..products.level2 import calibrate

    config = load_config(args.config)
    if args.graph:
        named = Path(args.graph)
        graph = str(named.absolute()) if named.is_file() else args.graph
        config = config.replace(GRAPH=graph)
    how = {
        "threads": args.threads,
        "tile": args.tile,
        "memory": args.memory,
        "per_step": args.per_step,
        "show_progress": not args.quiet,
    }
    with_noise = config.NOISE is not None and not args.no_noise
    if args.noise_only and not with_noise:
        raise InputError(f"{args.config}: --noise-only, but there is no NOISE block")
    if with_noise or _wants_cluster(args):
        # A wrong NOISE block is told before the calibration, all that is wrong before jobs wait.
        prepare(config, noise=with_noise)
    from ..batch.leftovers import remove_orphans

    remove_orphans(config)
    timings: dict[str, float] = {"start": _since_start()}
    steps: dict[str, float] = {}
    if args.report:
        from ..io.atomic import check_target
        from ..report.exposure import report_path
        from ..report.panels import figure_class

        # Told before the work if it cannot be drawn or written.
        figure_class()
        check_target(report_path(config.OUT))
    warned = _keep_warnings() if args.report else []
    with _running(args) as how["scheduler"]:
        if not args.noise_only:
            made = calibrate(config.replace(SLICEOUT=True) if with_noise else config, **how)
            timings |= made.seconds
            steps = made.steps
        if with_noise:
            from ..products.noise_layers import generate_noise

            timings["noise"] = generate_noise(config, keep_temp=args.keep_temp, **how).seconds
    if args.report:
        from ..report.exposure import exposure_report

        noise = config.NOISE.OUT if config.NOISE and with_noise else None
        exposure_report(config.OUT, noise=noise, logged=warned)
    if args.timings:
        sys.stdout.write(_table(timings, steps))
    return 0


def _keep_warnings() -> list[str]:
    """A list that takes every warning from now on."""
    kept: list[str] = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: kept.append(record.getMessage())  # type: ignore[method-assign]
    log.addHandler(handler)
    return kept


def _since_start() -> float:
    """Seconds since this process was started: what it took to import what is needed."""
    import time

    import psutil

    return time.time() - psutil.Process().create_time()


def _table(stages: Mapping[str, float], steps: Mapping[str, float]) -> str:
    """Where the time went."""
    lines = [f"{'stage':<18} {'wall s':>8}"]
    lines += [f"{name:<18} {seconds:8.2f}" for name, seconds in stages.items()]
    lines += [f"{'total':<18} {sum(stages.values()):8.2f}"]
    if steps:
        lines += ["", f"{'step':<18} {'CPU s':>8}   (all threads)"]
        lines += [f"{name:<18} {seconds:8.2f}" for name, seconds in steps.items()]
    return "\n".join(lines) + "\n"


def _wants_cluster(args: argparse.Namespace) -> bool:
    return args.scheduler not in ("local", "synchronous") or args.scheduler_file is not None


def _cluster_options(args: argparse.Namespace) -> dict[str, Any]:
    names = (
        "threads", "workers", "memory", "interface", "scheduler_file", "slurm_config", "wait",
        "performance_report",
    )  # fmt: skip
    return {name: getattr(args, name) for name in names}


def _check_scheduler(args: argparse.Namespace) -> None:
    """Wrong options are told also where nothing will be run."""
    from ..engine.schedulers import check_options, kind_of

    options = _cluster_options(args)
    check_options(args.scheduler, kind_of(args.scheduler, options), options)


@contextlib.contextmanager
def _running(args: argparse.Namespace) -> Iterator[Any]:
    """The scheduler that the options ask for, for all that is computed in the block."""
    from ..engine.schedulers import running

    with running(args.scheduler, **_cluster_options(args)) as client:
        yield args.scheduler if client is None else client


def _validate(args: argparse.Namespace) -> int:
    from ..products.validation import find_problems

    problems = find_problems(args.config)
    if problems:
        raise InputError(problems)
    sys.stdout.write(f"{args.config}: nothing wrong\n")
    return 0
