"""``demo``, ``simulate``, ``schema`` and ``completion``."""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from typing import Any

from ..errors import InputError
from .app import PROGRAM


def _demo(args: argparse.Namespace) -> int:
    if args.odd:
        from .demo_odd import run_odd

        odd = run_odd(args.directory / "odd")
        sys.stdout.write("\n".join(odd.lines()) + "\n")
        return 0 if odd.ok else 1
    from ..system.stopping import incomplete
    from .demo import run_demo

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


def _simulate(args: argparse.Namespace) -> int:
    from ..simulation.odd import simulate_odd
    from ..system.stopping import incomplete

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


SHELLS = ("bash", "zsh", "fish")


def _schema(args: argparse.Namespace) -> int:
    from ..batch.schema import campaign_schema
    from ..config.schema import config_schema

    made = campaign_schema() if args.campaign else config_schema()
    text = json.dumps(made, indent=2) + "\n"
    if args.output is None:
        sys.stdout.write(text)
        return 0
    from ..io.atomic import check_target, replacing

    output = args.output.absolute()
    check_target(output, f"-o {args.output}")
    with replacing(output) as (part,):
        part.write_text(text)
    return 0


def _completion(args: argparse.Namespace) -> int:
    try:
        import shtab
    except ImportError:
        raise InputError(
            "completion needs shtab: pip install 'roman-dask-l2[completion]'"
        ) from None
    from .app import make_parser

    parser = make_parser()
    _complete_files(parser, shtab.FILE, shtab.DIRECTORY)
    script = shtab.complete(parser, args.shell)
    if args.shell == "bash":  # a configuration may stand where a sub-command does
        script = script.replace("complete -o bashdefault", "complete -o default -o bashdefault")
    sys.stdout.write(script + "\n")
    return 0


def _complete_files(parser: argparse.ArgumentParser, file: Any, folder: Any) -> None:
    """Arguments that are paths are completed with the names of files."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for command in action.choices.values():
                _complete_files(command, file, folder)
        elif action.type is Path:
            action.complete = folder if action.dest == "directory" else file  # type: ignore[attr-defined]
