"""The command line: ``roman-dask-l2 config.yaml`` and its sub-commands.

Exit status 0 done, 2 bad input, 3 the Dask cluster failed, 4 some exposures of a batch failed, 1
anything else. Nothing heavy is imported before it is needed.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import logging
import os
import signal
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from .commands import add_commands
from .errors import ClusterError, InputError
from .logs import Messages

log = logging.getLogger("roman_dask_l2")

PROGRAM = "roman-dask-l2"
COMMANDS = (
    "run", "demo", "validate", "simulate", "batch", "status", "report", "graph", "schema",
    "completion",
)  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Parameters
    ----------
    arguments : sequence of str, optional
        Default: ``sys.argv[1:]``.

    Returns
    -------
    int
        Exit status.
    """
    # Imports and graphs make many objects that stay: looking through them again and again for
    # cycles takes a quarter of a second.
    gc.set_threshold(50_000, 20, 20)
    given = list(sys.argv[1:] if arguments is None else arguments)
    args = make_parser().parse_args(_with_command(given))
    level = logging.DEBUG if args.debug else logging.WARNING if args.quiet else logging.INFO
    messages = Messages(PROGRAM, level)
    # A batch system says SIGTERM before it says SIGKILL: clean up as for Ctrl-C.
    stopper = None
    with contextlib.suppress(ValueError):  # not in the main thread
        if arguments is None:  # the process is this command's own
            from .stopping import Stopper

            stopper = Stopper()
        else:
            signal.signal(signal.SIGTERM, signal.default_int_handler)
    status, problems = _act(args, messages)
    messages.end(status, problems)
    if stopper is not None:
        stopper.end(status)
    return status


def _act(args: argparse.Namespace, messages: Messages) -> tuple[int, list[str]]:
    """Exit status of a command, and why it could not be carried out."""
    try:
        messages.also_to(args.log_json)
        return args.action(args), []
    except InputError as error:
        _trace(args)
        return 2, error.problems
    except ClusterError as error:
        _trace(args)
        if error.details:
            sys.stderr.write(error.details + "\n")
        return 3, [str(error)]
    except KeyboardInterrupt as stop:  # a batch says what it could not clean up
        return 1, [f"interrupted; {stop if stop.args else 'no unfinished file is left behind'}"]
    except BrokenPipeError:
        return 1, []
    except Exception as error:
        _trace(args)
        first = (str(error).splitlines() or [""])[0]
        return 1, [f"failed: {type(error).__name__}: {first} (--debug shows where)"]


def _with_command(given: list[str]) -> list[str]:
    """`run` is the default command: put it in front of a configuration file's name."""
    if not given or given[0] in COMMANDS or given[0] in ("-h", "--help", "--version"):
        return given
    return ["run", *given]


def _trace(args: argparse.Namespace) -> None:
    if args.debug:
        import traceback

        traceback.print_exc()


def make_parser() -> argparse.ArgumentParser:
    """The command line's parser; making it imports nothing heavy."""
    parser = argparse.ArgumentParser(
        prog=PROGRAM,
        description="Calibrate Roman WFI exposures from Level 1 to Level 2.",
        epilog=f"'{PROGRAM} config.yaml' is short for '{PROGRAM} run config.yaml'.",
    )
    parser.add_argument("--version", action=_Version, nargs=0, help="print the version and exit")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--debug", action="store_true", help="show tracebacks and more log lines")
    common.add_argument("--quiet", action="store_true", help="only warnings and errors")
    common.add_argument(
        "--log-json", type=Path, metavar="FILE", help="add log lines to FILE as JSON objects"
    )
    common.add_argument("--version", action=_Version, nargs=0, help=argparse.SUPPRESS)
    running = argparse.ArgumentParser(add_help=False)
    running.add_argument(
        "--scheduler",
        default="local",
        metavar="NAME",
        help="local (threads of this process; default), synchronous, local-cluster (processes on "
        "this machine), slurm (SLURM jobs), or the address tcp://host:port of a Dask scheduler",
    )
    running.add_argument(
        "--threads",
        type=int,
        metavar="N",
        help="threads, of each worker if there are some (default: all processors)",
    )
    running.add_argument(
        "--tile",
        metavar="SIZE",
        help="pixels, such as 512 (square) or rows x columns 128x4096 (default: 64 full rows)",
    )
    cluster = argparse.ArgumentParser(add_help=False)
    options = cluster.add_argument_group("Dask clusters")
    options.add_argument(
        "--workers", type=int, metavar="N", help="worker processes to start, or to expect"
    )
    options.add_argument(
        "--memory",
        metavar="SIZE",
        help="memory of each worker, such as 8GB; without workers, tiles and threads are chosen "
        "to stay under it",
    )
    options.add_argument("--interface", metavar="NAME", help="network interface, such as ib0")
    options.add_argument(
        "--scheduler-file", type=Path, metavar="FILE", help="what a running dask scheduler wrote"
    )
    options.add_argument(
        "--slurm-config", type=Path, metavar="FILE", help="settings of --scheduler slurm (YAML)"
    )
    options.add_argument(
        "--wait",
        type=float,
        metavar="SECONDS",
        help="give up after so long without any worker (default: 300)",
    )
    options.add_argument(
        "--performance-report", type=Path, metavar="FILE", help="Dask's own report (HTML)"
    )

    run = commands.add_parser(
        "run", parents=[common, running, cluster], help="calibrate the exposure of a configuration"
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
    run.set_defaults(action=_run)

    demo = commands.add_parser(
        "demo", parents=[common, running], help="simulate an exposure, calibrate it, check it"
    )
    demo.add_argument("directory", type=Path, nargs="?", default=Path("demo"), help="default: demo")
    demo.add_argument("--side", type=int, default=1024, help="detector side (default: 1024)")
    demo.add_argument("--seed", type=int, default=1, help="random seed (default: 1)")
    demo.add_argument(
        "--odd",
        action="store_true",
        help="calibrate odd files of many kinds instead, and show what each became",
    )
    demo.set_defaults(action=_demo)

    validate = commands.add_parser(
        "validate", parents=[common], help="say all that is wrong with a configuration"
    )
    validate.add_argument("config", type=Path, help="YAML configuration file")
    validate.set_defaults(action=_validate)

    simulate = commands.add_parser(
        "simulate", parents=[common], help="write a simulated exposure and its reference files"
    )
    simulate.add_argument("directory", type=Path, help="where to write; made if need be")
    simulate.add_argument("--side", type=int, default=1024, help="detector side (default: 1024)")
    simulate.add_argument("--seed", type=int, default=1, help="random seed (default: 1)")
    simulate.add_argument("--detector", default="WFI01", help="WFI01 (default) to WFI18")
    simulate.add_argument("--filter", default="F158", help="optical element (default: F158)")
    simulate.add_argument(
        "--conditions",
        default="all",
        metavar="NAMES",
        help="all (default), plain, or names with commas between them, those of odd files too",
    )
    simulate.set_defaults(action=_simulate)
    _add_batch(commands, common, [running, cluster])
    add_commands(commands, common)
    return parser


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


class _Version(argparse.Action):
    """Looks the version up only when it is asked for."""

    def __call__(self, parser: Any, *args: Any) -> None:
        from . import __version__

        sys.stdout.write(f"{PROGRAM} {__version__}\n")
        parser.exit()


def _run(args: argparse.Namespace) -> int:
    from .config import load_config
    from .job import prepare
    from .pipeline import calibrate

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
    from .batch.leftovers import remove_orphans

    remove_orphans(config)
    timings: dict[str, float] = {"start": _since_start()}
    steps: dict[str, float] = {}
    if args.report:
        from .io.atomic import check_target
        from .report import report_path
        from .report.panels import figure_class

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
            from .noise.layers import generate_noise

            timings["noise"] = generate_noise(config, keep_temp=args.keep_temp, **how).seconds
    if args.report:
        from .report import exposure_report

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
    from .schedulers import _check, _kind

    options = _cluster_options(args)
    _check(args.scheduler, _kind(args.scheduler, options), options)


@contextlib.contextmanager
def _running(args: argparse.Namespace) -> Iterator[Any]:
    """The scheduler that the options ask for, for all that is computed in the block."""
    from .schedulers import running

    with running(args.scheduler, **_cluster_options(args)) as client:
        yield args.scheduler if client is None else client


def _demo(args: argparse.Namespace) -> int:
    if args.odd:
        from .demo_odd import run_odd

        odd = run_odd(args.directory / "odd")
        sys.stdout.write("\n".join(odd.lines()) + "\n")
        return 0 if odd.ok else 1
    from .demo import run_demo
    from .stopping import incomplete

    with incomplete(args.directory):
        report = run_demo(
            args.directory,
            side=args.side,
            seed=args.seed,
            scheduler=args.scheduler,
            threads=args.threads,
            tile=args.tile,
            show_progress=not args.quiet,
        )
    sys.stdout.write("\n".join(report.lines()) + "\n")
    return 0 if report.ok else 1


def _validate(args: argparse.Namespace) -> int:
    from .job import find_problems

    problems = find_problems(args.config)
    if problems:
        raise InputError(problems)
    sys.stdout.write(f"{args.config}: nothing wrong\n")
    return 0


def _batch(args: argparse.Namespace) -> int:
    from .batch.outcome import Outcome
    from .batch.plan import Options, make_plan
    from .batch.run import after_interruption, execute

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
    from .batch.status import status_lines

    sys.stdout.write("\n".join(status_lines(args.campaign)) + "\n")
    return 0


def _report(args: argparse.Namespace) -> int:
    from .report import write_report

    written = write_report(args.file, args.output, png=args.png, noise=args.noise)
    sys.stdout.write(f"{written}\n")
    return 0


def _simulate(args: argparse.Namespace) -> int:
    from .simulate_odd import simulate_odd
    from .stopping import incomplete

    names = args.conditions
    conditions = names if names in ("all", "plain") else [n for n in names.split(",") if n]
    with incomplete(args.directory):
        made = simulate_odd(
            args.directory,
            side=args.side,
            seed=args.seed,
            detector=args.detector,
            optical_element=args.filter,
            conditions=conditions,
        )
    sys.stdout.write(
        f"wrote {os.fspath(args.directory)}\ncalibrate it with: {PROGRAM} {made.config}\n"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
