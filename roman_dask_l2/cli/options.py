"""Options that several commands share, and the scheduler that they ask for."""

from __future__ import annotations

import argparse
import contextlib
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..engine.options import RunOptions

PROGRAM = "roman-dask-l2"

_CLUSTER = (
    "threads", "workers", "memory", "interface", "scheduler_file", "slurm_config", "wait",
    "performance_report", "tls_ca_file", "tls_cert", "tls_key", "insecure",
)  # fmt: skip
"""Options of `roman_dask_l2.running`."""


@dataclass(frozen=True)
class Shared:
    """Parsers whose options commands take over.

    Attributes
    ----------
    common : ArgumentParser
        Of every command: how much is said.
    running : ArgumentParser
        Scheduler, threads and tiles.
    cluster : ArgumentParser
        Dask clusters.
    """

    common: argparse.ArgumentParser
    running: argparse.ArgumentParser
    cluster: argparse.ArgumentParser


def shared_options() -> Shared:
    """The parsers, made anew."""
    return Shared(_common(), _running(), _cluster())


def _common() -> argparse.ArgumentParser:
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--debug", action="store_true", help="show tracebacks and more log lines")
    common.add_argument("--quiet", action="store_true", help="only warnings, errors and results")
    common.add_argument(
        "--log-json", type=Path, metavar="FILE", help="add log lines to FILE as JSON objects"
    )
    common.add_argument("--version", action=PrintVersion, nargs=0, help=argparse.SUPPRESS)
    return common


def _running() -> argparse.ArgumentParser:
    running = argparse.ArgumentParser(add_help=False)
    running.add_argument(
        "--scheduler",
        default="local",
        metavar="NAME",
        help="local (threads of this process; default), synchronous, local-cluster (processes on "
        "this machine), slurm (SLURM jobs), or the address tls://host:port of a Dask scheduler",
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
    return running


def _cluster() -> argparse.ArgumentParser:
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
    for name, what in (
        ("ca-file", "the authority that signed its certificates"),
        ("cert", "a certificate that lets you in"),
        ("key", "that certificate's key"),
    ):
        options.add_argument(
            f"--tls-{name}", type=Path, metavar="FILE", help=f"of a running cluster: {what} (PEM)"
        )
    options.add_argument(
        "--insecure",
        action="store_true",
        default=None,
        help="plain tcp://: whoever reaches the ports of scheduler and workers can run code as you",
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
    return cluster


class PrintVersion(argparse.Action):
    """Looks the version up only when it is asked for."""

    def __call__(self, parser: Any, *args: Any) -> None:
        from ..system.versions import __version__

        sys.stdout.write(f"{PROGRAM} {__version__}\n")
        parser.exit()


def run_options(args: argparse.Namespace, **changes: Any) -> RunOptions:
    """The options that a command was given; those that it does not have keep their defaults."""
    from ..engine.options import RunOptions

    names = ("scheduler", "threads", "tile", "memory", "per_step")
    given = {name: getattr(args, name) for name in names if hasattr(args, name)}
    return RunOptions.of(None, given | {"show_progress": not args.quiet} | changes)


def wants_cluster(args: argparse.Namespace) -> bool:
    """Whether a Dask cluster is asked for."""
    return args.scheduler not in ("local", "synchronous") or args.scheduler_file is not None


def check_scheduler(args: argparse.Namespace) -> None:
    """Wrong options are reported even where nothing will be run.

    Raises
    ------
    InputError
    """
    from ..engine.backends import SchedulerOptions
    from ..engine.schedulers import check_options

    given = {name: getattr(args, name) for name in _CLUSTER}
    check_options(SchedulerOptions(args.scheduler, **given))


@contextlib.contextmanager
def scheduler_of(args: argparse.Namespace) -> Iterator[Any]:
    """The scheduler that the options ask for, for all that is computed in the block."""
    from ..engine.schedulers import running

    with running(args.scheduler, **{name: getattr(args, name) for name in _CLUSTER}) as client:
        yield args.scheduler if client is None else client
