"""Grammar and tables of the layer language, written from the declarations of its commands."""

from __future__ import annotations

from roman_dask_l2.config.noise_commands.registry import COMMANDS
from roman_dask_l2.config.noise_labels import grammar


def tables() -> dict[str, str]:
    """Name -> MyST Markdown."""
    return {
        "noise_grammar": f"```text\n{grammar()}```\n",
        "noise_commands": commands(),
        "noise_streams": streams(),
    }


def commands() -> str:
    """How each command is written, and what it adds to a layer."""
    rows = [form for command in COMMANDS.values() for form in command.forms]
    return _table(("command", "adds to the layer"), rows)


def streams() -> str:
    """The random streams of each command; the same block is not described twice in a row."""
    rows, before = [], ""
    for command in COMMANDS.values():
        for what, draws, block in command.streams:
            same = block == before and len(block) > len("the same")
            rows.append((f"`{what}`", draws, "the same" if same else block))
            before = block
    return _table(("what", "draws", "block"), rows)


def _table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    lines = [head, ("---",) * len(head), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)
