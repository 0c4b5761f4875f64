"""``demo``, ``simulate``, ``schema`` and ``completion``."""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from typing import Any

from ..errors import InputError
from ..system.files import write_new
from ..system.workarounds import parser_actions
from .options import PROGRAM, Shared, run_options

COMMANDS = ("demo", "simulate", "schema", "completion")
_NOT_OPTIONS = ("reference_read", "extra_plane")
"""What reference files tell that the command has no option for."""
REFERENCES = ("survey", "observatory")
SHELLS = ("bash", "zsh", "fish")


def add(commands: Any, shared: Shared) -> None:
    """Add the commands of this file to the command line."""
    demo = commands.add_parser(
        "demo",
        parents=[shared.common, shared.running],
        help="simulate an exposure, calibrate it, check it",
    )
    demo.add_argument("directory", type=Path, nargs="?", default=Path("demo"), help="default: demo")
    demo.add_argument("--side", type=int, default=1024, help="detector side (default: 1024)")
    demo.add_argument("--seed", type=int, default=1, help="random seed (default: 1)")
    demo.add_argument(
        "--recipe",
        metavar="NAME",
        help="calibrate with this recipe an exposure that suits it, for example observatory",
    )
    demo.add_argument(
        "--odd",
        action="store_true",
        help="calibrate odd files of many kinds instead, and show what each became",
    )
    demo.set_defaults(action=act_demo)

    simulate = commands.add_parser(
        "simulate",
        parents=[shared.common],
        help="write a simulated exposure and its reference files",
    )
    simulate.add_argument("directory", type=Path, help="where to write; made if need be")
    simulate.add_argument("--side", type=int, help="detector side (default: 1024)")
    simulate.add_argument("--seed", type=int, default=1, help="random seed (default: 1)")
    simulate.add_argument(
        "--detector-seed",
        type=int,
        metavar="SEED",
        help="random seed of the detector and its reference files (default: that of --seed)",
    )
    simulate.add_argument("--detector", help="WFI01 (default) to WFI18")
    simulate.add_argument("--filter", help="optical element (default: F158)")
    simulate.add_argument(
        "--cal",
        type=Path,
        metavar="DIR",
        help="folder of reference files: those of an earlier simulation are used, and what the "
        "options of the detector do not say is taken from them; else they are written there",
    )
    simulate.add_argument(
        "--exposures",
        type=int,
        metavar="N",
        help="N dithered exposures of one field with the same reference files, and campaign.yaml",
    )
    simulate.add_argument(
        "--conditions",
        metavar="NAMES",
        help="all (default), plain, or names with commas between them, those of odd files too",
    )
    simulate.add_argument(
        "--references",
        choices=REFERENCES,
        metavar="|".join(REFERENCES),
        help="whose reference files describe the detector (default: survey)",
    )
    simulate.set_defaults(action=act_simulate)

    schema = commands.add_parser(
        "schema", parents=[shared.common], help="JSON Schema of configurations, for editors"
    )
    schema.add_argument("--campaign", action="store_true", help="of campaign files")
    schema.add_argument(
        "-o", "--output", type=Path, metavar="FILE", help="default: standard output"
    )
    schema.set_defaults(action=print_schema)

    completion = commands.add_parser(
        "completion", parents=[shared.common], help="print what makes a shell complete this command"
    )
    completion.add_argument(
        "shell", choices=SHELLS, metavar="|".join(SHELLS), help="whose completion to write"
    )
    completion.set_defaults(action=print_completion)


def act_demo(args: argparse.Namespace) -> int:
    """``demo``: simulate, calibrate, compare."""
    if args.odd:
        if args.recipe is not None:
            raise InputError("--odd and --recipe: the odd files are for the default recipe alone")
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
            recipe=args.recipe,
            options=run_options(args),
        )
    sys.stdout.write("\n".join(report.lines()) + "\n")
    return 0 if report.ok else 1


def act_simulate(args: argparse.Namespace) -> int:
    """``simulate``: write an exposure and its reference files."""
    from ..simulation.campaign import simulate_exposures
    from ..simulation.odd import simulate_odd
    from ..system.stopping import incomplete

    options = {"seed": args.seed, "cal": args.cal, **_detector(args)}
    with incomplete(args.directory):
        if args.exposures is None:
            made = simulate_odd(args.directory, **options)
            command = f"{PROGRAM} {made.config}"
        else:
            campaign = simulate_exposures(args.directory, args.exposures, **options)
            command = f"{PROGRAM} batch {campaign}"
    if not args.quiet:
        sys.stdout.write(f"wrote {os.fspath(args.directory)}\ncalibrate it with: {command}\n")
    return 0


def _detector(args: argparse.Namespace) -> dict[str, Any]:
    """What `simulate` is to know of the detector: what was given, what the reference files in
    ``--cal`` tell, or the defaults."""
    from ..simulation.references import found_in

    known = {"side": 1024, "detector": "WFI01", "optical_element": "F158", "conditions": "all"}
    if args.cal is not None:
        known |= found_in(args.cal) or {}
    known = {key: value for key, value in known.items() if key not in _NOT_OPTIONS}
    names = args.conditions
    given = {
        "side": args.side,
        "detector": args.detector,
        "optical_element": args.filter,
        "detector_seed": args.detector_seed,
        "references": args.references,
        "conditions": names if names in ("all", "plain", None) else names.split(","),
    }
    return known | {key: value for key, value in given.items() if value is not None}


def print_schema(args: argparse.Namespace) -> int:
    """``schema``: JSON Schema of configurations and campaign files."""
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
        write_new(part, text)
    return 0


def print_completion(args: argparse.Namespace) -> int:
    """``completion``: what makes a shell complete the command."""
    try:
        import shtab
    except ImportError:
        raise InputError(
            "completion needs shtab: pip install 'roman-dask-l2[completion]'"
        ) from None
    parser = args.parser
    _complete_files(parser, shtab.FILE, shtab.DIRECTORY)
    script = shtab.complete(parser, args.shell)
    if args.shell == "bash":  # a configuration may stand where a sub-command does
        script = script.replace("complete -o bashdefault", "complete -o default -o bashdefault")
    sys.stdout.write(script + "\n")
    return 0


def _complete_files(parser: argparse.ArgumentParser, file: Any, folder: Any) -> None:
    """Arguments that are paths are completed with the names of files."""
    for action in parser_actions(parser):
        if isinstance(action.choices, dict):  # sub-commands
            for command in action.choices.values():
                _complete_files(command, file, folder)
        elif action.type is Path:
            action.complete = folder if action.dest == "directory" else file  # type: ignore[attr-defined]
