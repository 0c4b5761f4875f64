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

from ..errors import ClusterError, InputError
from ..system.logs import Messages
from ..system.processes import keep_freed, one_thread_each
from ..system.stopping import Stopper, heard
from . import batch, look, run, tools
from .options import PROGRAM, PrintVersion, shared_options

GROUPS = (run, batch, look, tools)
"""Files of commands, in the order of ``--help``."""
COMMANDS = tuple(name for group in GROUPS for name in group.COMMANDS)


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
    keep_freed()
    if arguments is None:  # the process is this command's own
        one_thread_each()
    given = list(sys.argv[1:] if arguments is None else arguments)
    args = make_parser().parse_args(_with_command(given))
    level = logging.DEBUG if args.debug else logging.WARNING if args.quiet else logging.INFO
    messages = Messages(PROGRAM, level)
    # A batch system says SIGTERM before it says SIGKILL: clean up as for Ctrl-C.
    stopper = None
    with contextlib.suppress(ValueError):  # not in the main thread
        if arguments is None:  # the process is this command's own
            stopper = Stopper()
        else:
            signal.signal(signal.SIGTERM, signal.default_int_handler)
    status, problems = _act(args, messages)
    messages.end(status, problems)
    if stopper is not None:
        stopper.end(status)
        # All cleaning up is done: do not look for cycles in what the system takes back at once. It
        # would take a second.
        gc.freeze()
    return status


def _act(args: argparse.Namespace, messages: Messages) -> tuple[int, list[str]]:
    """Exit status of a command, and why it could not be carried out."""
    try:
        messages.also_to(args.log_json)
        with heard():
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
    parser.add_argument(
        "--version", action=PrintVersion, nargs=0, help="print the version and exit"
    )
    parser.set_defaults(parser=parser)  # for the completion of all commands
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    shared = shared_options()
    for group in GROUPS:
        group.add(commands, shared)
    return parser


if __name__ == "__main__":
    sys.exit(main())
