"""The command line: ``roman-dask-l2 config.yaml`` and its sub-commands.

Exit status 0 done, 2 bad input, 3 the Dask cluster failed, 4 some exposures of a batch failed, 1
anything else. Nothing heavy is imported before it is needed.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import logging
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..errors import ClusterError, InputError
from ..system.logs import Messages
from .batch import _add_batch
from .look import add_commands
from .run import _run, _validate
from .tools import _demo, _simulate

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
            from ..system.stopping import Stopper

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


class _Version(argparse.Action):
    """Looks the version up only when it is asked for."""

    def __call__(self, parser: Any, *args: Any) -> None:
        from ..system.versions import __version__

        sys.stdout.write(f"{PROGRAM} {__version__}\n")
        parser.exit()


if __name__ == "__main__":
    sys.exit(main())
