"""The reference of the command line, written from its parsers so that it cannot drift."""

from __future__ import annotations

import argparse
from collections.abc import Iterator

from roman_dask_l2.cli.app import make_parser

WIDTH = "78"
"""Columns of the usage lines."""


def commands() -> dict[str, tuple[argparse.ArgumentParser, str]]:
    """Name of each sub-command -> its parser, and what it does in a few words."""
    (sub,) = (a for a in make_parser()._actions if isinstance(a, argparse._SubParsersAction))
    said = {choice.dest: choice.help or "" for choice in sub._choices_actions}
    return {name: (parser, said[name]) for name, parser in sub.choices.items()}


def page() -> str:
    """MyST Markdown: a section for each command."""
    lines: list[str] = []
    for name, (parser, said) in commands().items():
        lines += [f"## {name}", "", f"{said[:1].upper()}{said[1:]}.", ""]
        lines += ["```text", _usage(parser), "```", "", *_table(parser), ""]
    return "\n".join(lines)


def _usage(parser: argparse.ArgumentParser) -> str:
    """The usage lines, at a width that does not depend on the terminal."""
    parser.formatter_class = lambda prog: argparse.HelpFormatter(prog, width=int(WIDTH))
    return parser.format_usage().strip()


def _table(parser: argparse.ArgumentParser) -> Iterator[str]:
    yield "| argument | meaning |"
    yield "|---|---|"
    for action in parser._actions:
        if action.help == argparse.SUPPRESS:
            continue
        said = (action.help or "").replace("|", "\\|").replace("%%", "%")
        yield f"| {_name(action)} | {said} |"


def _name(action: argparse.Action) -> str:
    """An argument as it is typed."""
    dest = action.dest.upper() if action.option_strings else action.dest
    metavar = action.metavar or dest
    value = metavar if isinstance(metavar, str) else " ".join(metavar)
    value = value.replace("|", "\\|")
    if not action.option_strings:
        return f"`{value}`"
    names = ", ".join(f"`{option}`" for option in action.option_strings)
    return names if action.nargs == 0 else f"{names} `{value}`"
