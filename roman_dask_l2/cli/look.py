"""``report`` and ``graph``: what people look at."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from ..errors import InputError
from .options import Shared

COMMANDS = ("report", "graph")


def add(commands: Any, shared: Shared) -> None:
    """Add the commands of this file to the command line."""
    report = commands.add_parser(
        "report", parents=[shared.common], help="write a report of an exposure or a campaign (HTML)"
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
    report.set_defaults(action=act)

    graph = commands.add_parser(
        "graph", parents=[shared.common], help="draw a recipe, or the Dask graph that is made of it"
    )
    graph.add_argument(
        "config",
        type=Path,
        nargs="?",
        help="YAML configuration file: shows which steps apply; or a recipe",
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
    graph.set_defaults(action=draw_graph)


def draw_graph(args: argparse.Namespace) -> int:
    """``graph``: draw a recipe or its tasks."""
    from ..config.recipe import load_recipe
    from ..config.yaml_file import is_recipe
    from ..drawing.recipe import draw_recipe

    config, applied = None, None
    if args.config is not None and args.graph is None and is_recipe(args.config):
        args.graph, args.config = str(args.config), None
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
    if not args.quiet:
        sys.stdout.write(f"wrote {output}\n")
    return 0


def _named(graph: str) -> str:
    """A recipe as a configuration in another place names it."""
    return str(Path(graph).absolute()) if Path(graph).is_file() else graph


def act(args: argparse.Namespace) -> int:
    """``report``: a page about an exposure or a campaign."""
    from ..report import write_report

    written = write_report(args.file, args.output, png=args.png, noise=args.noise)
    sys.stdout.write(f"{written}\n")
    return 0
