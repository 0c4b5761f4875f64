"""``report``, ``pixel``, ``compare``, ``graph`` and ``references``: what people look at."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from ..errors import InputError
from .options import Shared

COMMANDS = ("report", "pixel", "compare", "graph", "references")


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
        "--png",
        type=Path,
        metavar="DIR",
        help="also write each plot as a PNG (or SVG) into this folder",
    )
    report.add_argument(
        "--noise", type=Path, metavar="FILE", help="noise file (default: as the Level-2 file says)"
    )
    report.add_argument(
        "--pixel",
        nargs=2,
        type=int,
        action="append",
        default=[],
        metavar=("X", "Y"),
        help="also show what each step does to this pixel (column and row of the active array, "
        "from 0); may be given several times",
    )
    report.set_defaults(action=act)

    pixel = commands.add_parser(
        "pixel",
        parents=[shared.common],
        help="show what each step does to one pixel: ramp, flags, fit, neighbours",
    )
    pixel.add_argument("config", type=Path, help="YAML configuration file")
    pixel.add_argument("x", type=int, metavar="X", help="column of the active array, from 0")
    pixel.add_argument("y", type=int, metavar="Y", help="row of the active array, from 0")
    pixel.add_argument("--graph", metavar="NAME|FILE", help="another recipe than the configuration")
    pixel.add_argument(
        "-o", "--output", type=Path, metavar="FILE", help="also draw it (.png, .svg, .pdf)"
    )
    pixel.set_defaults(action=show_pixel)

    compare = commands.add_parser(
        "compare",
        parents=[shared.common],
        help="say what differs between two Level-2 or two noise files (status 1 if numbers do)",
    )
    compare.add_argument("first", type=Path, help="Level-2 or noise file")
    compare.add_argument("second", type=Path, help="another file of that kind")
    compare.add_argument(
        "-o", "--output", type=Path, metavar="FILE", help="also draw where they differ (.png, .pdf)"
    )
    compare.set_defaults(action=compare_two)

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
    _add_references(commands, shared)


def show_pixel(args: argparse.Namespace) -> int:
    """``pixel``: one pixel through all steps."""
    from ..config.model import load_config
    from ..report.pixel import draw_pixel, look_at_pixel

    config = load_config(args.config)
    if args.graph:
        config = config.replace(GRAPH=_named(args.graph))
    found = look_at_pixel(config, args.x, args.y)
    sys.stdout.write("\n".join(found.lines()) + "\n")
    if args.output is not None:
        draw_pixel(found, args.output)
        sys.stdout.write(f"wrote {args.output}\n")
    return 0


def compare_two(args: argparse.Namespace) -> int:
    """``compare``: what differs between two files."""
    from ..report.two_files import compare_files, draw

    found = compare_files(args.first, args.second)
    sys.stdout.write("\n".join(found.lines()) + "\n")
    if args.output is not None:
        draw(found, args.output)
        sys.stdout.write(f"wrote {args.output}\n")
    return 0 if found.same else 1


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
    recipe = load_recipe(name, config)  # another one with romancal_ramp_fit
    if args.tasks:
        from ..drawing.tasks import draw_tasks

        canvas = draw_tasks(recipe.path.absolute(), args.per_step)
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


def _add_references(commands: Any, shared: Shared) -> None:
    references = commands.add_parser(
        "references",
        parents=[shared.common],
        help="print the reference files that CRDS chooses for an exposure, as YAML for CALDIR",
    )
    references.add_argument("exposure", type=Path, metavar="L1", help="Level-1 file")
    references.add_argument(
        "--graph", metavar="NAME|FILE", help="recipe that needs them (default: l1_to_l2)"
    )
    references.set_defaults(action=print_references)


def print_references(args: argparse.Namespace) -> int:
    """``references``: what CRDS chooses, as a block for a configuration."""
    from ..products.choice import suggestion

    sys.stdout.write(suggestion(args.exposure, args.graph))
    return 0


def act(args: argparse.Namespace) -> int:
    """``report``: a page about an exposure or a campaign."""
    from ..report import write_report

    pixels = [(x, y) for x, y in args.pixel]
    written = write_report(args.file, args.output, png=args.png, noise=args.noise, pixels=pixels)
    sys.stdout.write(f"{written}\n")
    return 0
