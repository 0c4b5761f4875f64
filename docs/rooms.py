"""Draw the rooms of the package for design.md: ``python docs/rooms.py``.

Their order is that of ``rooms.yaml``, which a test holds every import against; the text of each is
the first line of its docstring.
"""

from __future__ import annotations

import ast
from pathlib import Path

import yaml

from roman_dask_l2.drawing.canvas import Canvas, Line, Rect, Text

DOCS = Path(__file__).resolve().parent
PACKAGE = DOCS.parent / "roman_dask_l2"
PICTURE = DOCS / "images" / "rooms.svg"

WIDTH, MARGIN, ROW, GAP, NAME = 900, 20, 34, 6, 142
LEFT = MARGIN + 50
"""Where the rooms begin; left of them is the arrow."""
DOOR_TEXT = "what users import or start; may import every room"


def charter(room: str, package: Path = PACKAGE) -> str:
    """The first line of a room's docstring, without its full stop and backticks."""
    path = package / room / "__init__.py" if (package / room).is_dir() else package / f"{room}.py"
    text = ast.get_docstring(ast.parse(path.read_text())) or ""
    return text.partition("\n")[0].removesuffix(".").replace("`", "")


def draw(table: Path = DOCS / "rooms.yaml", package: Path = PACKAGE) -> Canvas:
    """The rooms on top of each other, the ground at the bottom."""
    plan = yaml.safe_load(table.read_text())
    canvas = Canvas("The rooms of roman_dask_l2: imports only go down", width=WIDTH)
    doors = ", ".join(f"{name}.py" for name in plan["doors"])
    canvas.add(
        Rect(LEFT, MARGIN, WIDTH - MARGIN - LEFT, ROW, "file", "edge", 6),
        Text(LEFT + 12, MARGIN + 22, doors, 13, bold=True, mono=True),
        Text(WIDTH - MARGIN - 12, MARGIN + 22, DOOR_TEXT, 12.5, "soft", "end"),
    )
    y = top = MARGIN + ROW + 2 * GAP
    for room in reversed(plan["rooms"]):
        name = f"{room}/" if (package / room).is_dir() else f"{room}.py"
        text = charter(room, package)
        barred = plan["except"].get(room, ())
        height = ROW + (17 if barred else 0)
        canvas.add(
            Rect(LEFT, y, WIDTH - MARGIN - LEFT, height, "band", "edge", 6),
            Text(LEFT + 12, y + 22, name, 13, bold=True, mono=True),
            Text(LEFT + NAME, y + 22, text, 12.5),
        )
        if barred:
            line = f"imports nothing of {', '.join(barred)}"
            canvas.add(Text(LEFT + NAME, y + 40, line, 12, "soft"))
        y += height + GAP
    end, x = y - GAP, MARGIN + 26
    canvas.add(
        Line(x, top, x, end, "grey", 2),
        Line(x - 6, end - 9, x, end, "grey", 2),
        Line(x + 6, end - 9, x, end, "grey", 2),
        Text(MARGIN + 12, (top + end) / 2, "imports only go down", 13, "soft", "middle", turned=90),
    )
    canvas.height = end + MARGIN
    return canvas


if __name__ == "__main__":
    draw().save(PICTURE)
