"""``report`` and ``graph``: what people look at."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from ..errors import InputError
from .tools import SHELLS, _completion, _schema


def add_commands(commands: Any, common: argparse.ArgumentParser) -> None:
    """Add them to the sub-commands of the command line."""
    graph = commands.add_parser(
        "graph", parents=[common], help="draw a recipe, or the Dask graph that is made of it"
    )
    graph.add_argument(
        "config", type=Path, nargs="?", help="YAML configuration file: shows which steps apply"
    )
    graph.add_argument("--graph", metavar="NAME|FILE", help="recipe (default: l1_to_l2)")
    graph.add_argument(
        "--tasks", action="store_true", help="the Dask tasks of a small simulated detector"
    )
    graph.add_argument(
        "--per-step", action="store_true", help="with --tasks: a layer for each step"
    )
    graph.add_argument(
        "-o",
        "--output",
        type=Path,
        metavar="FILE",
        help=".svg, .html or .png (default: RECIPE.svg)",
    )
    graph.set_defaults(action=_graph)

    schema = commands.add_parser(
        "schema", parents=[common], help="JSON Schema of configurations, for editors"
    )
    schema.add_argument("--campaign", action="store_true", help="of campaign files")
    schema.add_argument(
        "-o", "--output", type=Path, metavar="FILE", help="default: standard output"
    )
    schema.set_defaults(action=_schema)

    completion = commands.add_parser(
        "completion", parents=[common], help="print what makes a shell complete this command"
    )
    completion.add_argument(
        "shell", choices=SHELLS, metavar="|".join(SHELLS), help="whose completion to write"
    )
    completion.set_defaults(action=_completion)


def _graph(args: argparse.Namespace) -> int:
    from ..config.recipe import load_recipe
    from ..drawing.recipe import draw_recipe

    config, applied = None, None
    if args.config is not None:
        from ..config.model import load_config
        from ..products.job import prepare

        config = load_config(args.config)
        if args.graph:
            config = config.replace(GRAPH=_named(args.graph))
        if not args.tasks:
            applied = {bound.name for bound in prepare(config).steps}
    name = args.graph or (config.GRAPH if config else "l1_to_l2")
    recipe = load_recipe(name, config)
    if args.tasks:
        from ..drawing.tasks import draw_tasks

        canvas = draw_tasks(_named(str(name)), args.per_step)
    elif args.per_step:
        raise InputError("--per-step: expected together with --tasks")
    else:
        canvas = draw_recipe(recipe, applied)
    output = args.output or Path(f"{recipe.name}.svg")
    canvas.save(output)
    sys.stdout.write(f"wrote {output}\n")
    return 0


def _named(graph: str) -> str:
    """A recipe as a configuration in another place names it."""
    return str(Path(graph).absolute()) if Path(graph).is_file() else graph


def _report(args: argparse.Namespace) -> int:
    from ..report import write_report

    written = write_report(args.file, args.output, png=args.png, noise=args.noise)
    sys.stdout.write(f"{written}\n")
    return 0
