"""The command line: ``roman-dask-l2 config.yaml`` and its sub-commands.

Exit status 0 done, 2 bad input, 1 anything else. Nothing heavy is imported before it is needed.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .errors import InputError

log = logging.getLogger("roman_dask_l2")

PROGRAM = "roman-dask-l2"
COMMANDS = ("run", "demo", "validate", "simulate")


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
    given = list(sys.argv[1:] if arguments is None else arguments)
    args = _parser().parse_args(_with_command(given))
    _set_up_logging(args)
    # A batch system says SIGTERM before it says SIGKILL: clean up as for Ctrl-C.
    with contextlib.suppress(ValueError):  # not in the main thread
        signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        return args.action(args)
    except InputError as error:
        _trace(args)
        for problem in error.problems:
            _say_error(problem)
        return 2
    except KeyboardInterrupt:
        _say_error("interrupted; no unfinished file is left behind")
        return 1
    except BrokenPipeError:
        return 1
    except Exception as error:
        _trace(args)
        first = (str(error).splitlines() or [""])[0]
        _say_error(f"failed: {type(error).__name__}: {first} (--debug shows where)")
        return 1


def _with_command(given: list[str]) -> list[str]:
    """`run` is the default command: put it in front of a configuration file's name."""
    if not given or given[0] in COMMANDS or given[0] in ("-h", "--help", "--version"):
        return given
    return ["run", *given]


def _trace(args: argparse.Namespace) -> None:
    if args.debug:
        import traceback

        traceback.print_exc()


def _say_error(problem: str) -> None:
    line = " ".join(str(problem).split())
    sys.stderr.write(f"{PROGRAM}: error: {line}\n")


def _set_up_logging(args: argparse.Namespace) -> None:
    level = logging.DEBUG if args.debug else logging.WARNING if args.quiet else logging.INFO
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
    log.handlers[:] = [handler]
    log.setLevel(level)
    log.propagate = False


def _parser() -> argparse.ArgumentParser:
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
    common.add_argument("--version", action=_Version, nargs=0, help=argparse.SUPPRESS)
    running = argparse.ArgumentParser(add_help=False)
    running.add_argument(
        "--scheduler",
        default="local",
        metavar="NAME",
        help="local (threads of this process; default) or synchronous",
    )
    running.add_argument(
        "--threads", type=int, metavar="N", help="worker threads (default: all processors)"
    )
    running.add_argument(
        "--tile", metavar="SIZE", help="pixels, 512 or rows x columns 128x4096 (the default)"
    )

    run = commands.add_parser(
        "run", parents=[common, running], help="calibrate the exposure of a configuration"
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
        help="all (default), plain, or names with commas between them",
    )
    simulate.set_defaults(action=_simulate)
    return parser


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
        "scheduler": args.scheduler,
        "threads": args.threads,
        "tile": args.tile,
        "per_step": args.per_step,
        "show_progress": not args.quiet,
    }
    with_noise = config.NOISE is not None and not args.no_noise
    if args.noise_only and not with_noise:
        raise InputError(f"{args.config}: --noise-only, but there is no NOISE block")
    if with_noise:
        prepare(config, noise=True)  # a wrong NOISE block is told before the calibration
    if not args.noise_only:
        calibrate(config.replace(SLICEOUT=True) if with_noise else config, **how)
    if with_noise:
        from .noise.layers import generate_noise

        generate_noise(config, keep_temp=args.keep_temp, **how)
    return 0


def _demo(args: argparse.Namespace) -> int:
    from .demo import run_demo

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


def _simulate(args: argparse.Namespace) -> int:
    from .simulate import simulate

    names = args.conditions
    conditions = names if names in ("all", "plain") else [n for n in names.split(",") if n]
    made = simulate(
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
