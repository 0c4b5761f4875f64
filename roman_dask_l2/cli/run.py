"""``run`` and ``validate``: one exposure."""

from __future__ import annotations

import argparse
import dataclasses
import logging
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import InputError
from ..system.logs import PACKAGE_LOG
from ..system.processes import age
from .options import Shared, run_options, scheduler_of

log = logging.getLogger(__name__)

COMMANDS = ("run", "validate")


def add(commands: Any, shared: Shared) -> None:
    """Add the commands of this file to the command line."""
    run = commands.add_parser(
        "run",
        parents=[shared.common, shared.running, shared.cluster],
        help="calibrate the exposure of a configuration",
    )
    run.add_argument("config", type=Path, help="YAML configuration file")
    run.add_argument(
        "--graph", metavar="NAME|FILE", help="recipe, instead of the configuration's GRAPH"
    )
    run.add_argument(
        "--per-step",
        action="store_true",
        help="one Dask layer for each step instead of one task for each tile; the same numbers",
    )
    run.add_argument("--timings", action="store_true", help="print where the time went")
    run.add_argument(
        "--report", action="store_true", help="write a report beside OUT, NAME_report.html"
    )
    stage = run.add_mutually_exclusive_group()
    stage.add_argument("--no-noise", action="store_true", help="make no noise layers")
    stage.add_argument(
        "--noise-only",
        action="store_true",
        help="only the noise layers, of an exposure that is done",
    )
    run.add_argument(
        "--keep-temp", action="store_true", help="keep the TEMP store of the noise layers"
    )
    run.set_defaults(action=act)

    checking = commands.add_parser(
        "validate", parents=[shared.common], help="say all that is wrong with a configuration"
    )
    checking.add_argument("config", type=Path, help="YAML configuration file")
    checking.set_defaults(action=validate)


def act(args: argparse.Namespace) -> int:
    """``run``: calibrate, then make the noise layers."""
    from ..batch.leftovers import remove_orphans
    from ..config.model import load_config
    from ..products.job import prepare
    from ..products.level2 import calibrate

    config = load_config(args.config)
    if args.graph:
        named = Path(args.graph)
        graph = str(named.absolute()) if named.is_file() else args.graph
        config = config.replace(GRAPH=graph)
    with_noise = config.NOISE is not None and not args.no_noise
    if args.noise_only and not with_noise:
        raise InputError(f"{args.config}: --noise-only, but there is no NOISE block")
    remove_orphans(config)
    timings = {"start": age()}  # what it took to import what is needed
    began = time.perf_counter()
    # A wrong NOISE block is reported before the calibration, everything before jobs wait.
    job = prepare(config, noise=with_noise)
    timings["open"] = time.perf_counter() - began
    steps: dict[str, float] = {}
    if args.report:
        from ..io.atomic import check_target
        from ..report.exposure import report_path
        from ..report.panels import figure_class

        # Reported before the work if it cannot be drawn or written.
        figure_class()
        check_target(report_path(config.OUT))
    warned = _keep_warnings() if args.report else []
    with scheduler_of(args) as scheduler:
        options = run_options(args, scheduler=scheduler)
        if not args.noise_only:
            if with_noise:  # P and O layers need it
                sliced = dataclasses.replace(job, config=config.replace(SLICEOUT=True))
            made = calibrate(sliced if with_noise else job, options)
            timings |= made.seconds | {"open": timings["open"] + made.seconds["open"]}
            steps = made.steps
        if with_noise:
            from ..products.noise_layers import generate_noise

            timings["noise"] = generate_noise(job, options, keep_temp=args.keep_temp).seconds
    if args.report:
        from ..report.exposure import exposure_report

        noise = config.NOISE.OUT if config.NOISE and with_noise else None
        log.info("wrote %s", exposure_report(config.OUT, noise=noise, logged=warned))
    if args.timings:
        sys.stdout.write(_table(timings, steps))
    return 0


def _keep_warnings() -> list[str]:
    """A list that takes every warning from now on."""
    kept: list[str] = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: kept.append(record.getMessage())  # type: ignore[method-assign]
    PACKAGE_LOG.addHandler(handler)
    return kept


def _table(stages: Mapping[str, float], steps: Mapping[str, float]) -> str:
    """Where the time went."""
    lines = [f"{'stage':<18} {'wall s':>8}"]
    lines += [f"{name:<18} {seconds:8.2f}" for name, seconds in stages.items()]
    lines += [f"{'total':<18} {sum(stages.values()):8.2f}"]
    if steps:
        lines += ["", f"{'step':<18} {'CPU s':>8}   (all threads)"]
        lines += [f"{name:<18} {seconds:8.2f}" for name, seconds in steps.items()]
    return "\n".join(lines) + "\n"


def validate(args: argparse.Namespace) -> int:
    """``validate``: everything that is wrong, at once."""
    from ..products.validation import find_problems

    problems = find_problems(args.config)
    if problems:
        raise InputError(problems)
    if not args.quiet:
        sys.stdout.write(f"{args.config}: nothing wrong\n")
    return 0
