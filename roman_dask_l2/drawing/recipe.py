"""A recipe as a picture: its steps from top to bottom, and a track for each variable."""

from __future__ import annotations

import textwrap
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from ..config.recipe import Recipe
from ..core.step import VARIABLES, BoundStep, always
from ..engine.plan import Segment, make_segments
from ..io.l2_arrays import BESIDE_ROMAN, stored_images
from .canvas import Canvas, Circle, Line, Rect, Text

MARGIN = 20
REFERENCES = 300
"""Width of the column with reference arrays."""
BOX = 400
"""Width of a step."""
TRACK = 31
"""Between the tracks of two variables."""
HEADER = 118
"""Height of the names of the tracks."""
_LETTERS = 64
"""Letters that fit on a line of a step."""


def draw_recipe(recipe: Recipe, applied: Collection[str] | None = None) -> Canvas:
    """Draw a recipe.

    Parameters
    ----------
    recipe : Recipe
    applied : collection of str, optional
        Steps that apply to some exposure; others are drawn as left out. By default all apply, and
        those that some exposures do not need are marked.

    Returns
    -------
    Canvas
    """
    sheet = _Sheet(recipe, applied)
    sheet.draw()
    return sheet.canvas


@dataclass(frozen=True)
class _Track:
    """Where a variable runs, and how it is coloured."""

    name: str
    x: float
    color: str


class _Sheet:
    def __init__(self, recipe: Recipe, applied: Collection[str] | None) -> None:
        self.recipe, self.applied = recipe, applied
        steps = [b for b in recipe.steps if applied is None or b.name in applied]
        made = {name for b in steps for name in b.step.writes}
        wanted = {variable: name for name, variable in stored_images(made).items()}
        wanted |= {name: name for name in BESIDE_ROMAN}
        wanted |= {name: name for name in recipe.outputs}
        self.kept = {name: file for name, file in wanted.items() if name in made}
        """Variables that go into the file -> what they are called there."""
        self.segments = make_segments(steps, self.kept)
        self.box = MARGIN + REFERENCES + 24
        first = self.box + BOX + 44
        order = [name for b in steps for name in b.step.writes]
        names = list(dict.fromkeys(order))
        self.tracks = {
            name: _Track(name, first + i * TRACK, _color(name)) for i, name in enumerate(names)
        }
        self.last = first + (len(names) - 1) * TRACK
        self.canvas = Canvas(f"The recipe {recipe.name}", width=self.last + 64 + MARGIN)

    def draw(self) -> None:
        canvas = self.canvas
        canvas.add(
            Text(MARGIN, 40, self.recipe.name, 22, bold=True),
            Text(MARGIN, 62, "from Level 1 (ramps) to Level 2 (rates)", 13, "soft"),
        )
        y = float(HEADER)
        self._names(y, above=True)
        middle = self.box + BOX / 2
        self._file("Level-1 file", y + 8)
        start, y = y + 50, y + 64
        canvas.add(Line(middle, start, middle, y, "edge"))
        rows: list[tuple[BoundStep, float]] = []
        left_out = [b for b in self.recipe.steps if b not in self._applying()]
        bands: list[Rect | Text | Line] = []
        below, canvas.shapes = canvas.shapes, []
        for segment in self.segments:
            top = y
            y += 30
            for bound in self._with_left_out(segment, left_out):
                height = _height(bound)
                self._step(bound, y, height, bound in left_out)
                if bound not in left_out:
                    rows.append((bound, y + height / 2))
                y += height + 8
            bands += [*self._band(segment, top, y + 2), Line(middle, y + 2, middle, y + 16, "edge")]
            y += 16
        boxes, canvas.shapes = canvas.shapes, [*below, *bands]
        end = y + 21
        self._tracks(rows, end)
        canvas.add(*boxes)
        self._dots(rows)
        self._file("Level-2 file", y)
        for name in self.kept:
            track = self.tracks[name]
            canvas.add(Rect(track.x - 6, end - 6, 12, 12, track.color, radius=2, tip=_about(name)))
        self._names(end + 22, above=False)
        canvas.height = end + HEADER + 20
        self._legend(end + 52)

    def _applying(self) -> list[BoundStep]:
        return [b for s in self.segments for b in s.steps]

    def _with_left_out(self, segment: Segment, left_out: Sequence[BoundStep]) -> list[BoundStep]:
        """The steps of a segment, and those before or between them that do not apply."""
        order = list(self.recipe.steps)
        begin = order.index(segment.steps[0])
        end = order.index(segment.steps[-1])
        while begin > 0 and order[begin - 1] in left_out:
            begin -= 1
        if segment is self.segments[-1]:
            end = len(order) - 1
        return order[begin : end + 1]

    # -- parts

    def _band(self, segment: Segment, top: float, bottom: float) -> list[Rect | Text]:
        """A segment: what is done with a tile in one go."""
        finished = any(b.step.reduction and not b.step.reduction.thin for b in segment.steps)
        words = []
        if finished:
            words.append("when all tiles are finished")
        if segment.leave:
            beyond = f", read {segment.halo} pixels beyond its edges" if segment.halo else ""
            words.append(f"tile by tile{beyond}")
        x = self.box - 14
        return [
            Rect(x, top, self.last + 20 - x, bottom - top, "band", "edge", 10),
            Text(self.box, top + 20, "; ".join(words), 12, "soft"),
        ]

    def _file(self, name: str, y: float) -> None:
        self.canvas.add(
            Rect(self.box, y, BOX, 42, "file", "edge", 6),
            Text(self.box + BOX / 2, y + 26, name, 15, anchor="middle", bold=True),
        )

    def _step(self, bound: BoundStep, y: float, height: float, left_out: bool) -> None:
        step, canvas = bound.step, self.canvas
        optional = self.applied is None and step.when is not always
        canvas.add(
            Rect(
                self.box, y, BOX, height, "band" if left_out else "card", "edge", 6,
                dashed=left_out or optional, tip=_describe(bound),
            ),
            Text(self.box + 12, y + 20, step.name, 14.5, "soft" if left_out else "ink", bold=True),
        )  # fmt: skip
        pills = []
        if left_out:
            pills.append("not applied")
        elif optional:
            pills.append("where it applies")
        halo = max(step.halo(bound.params), step.reference_halo(bound.params))
        if halo and not left_out:
            pills.append(f"halo {halo}")
        if step.reduction is not None and not left_out:
            pills.append("measures strips" if step.reduction.thin else "measures the frame")
        right: float = self.box + BOX - 8
        for pill in pills:
            width = 14 + 6.6 * len(pill)
            canvas.add(
                Rect(right - width, y + 7, width, 18, "pill", radius=9),
                Text(right - width / 2, y + 20, pill, 11, "soft", "middle"),
            )
            right -= width + 6
        summary, options = _lines(bound)
        for i, line in enumerate([*summary, *options]):
            color = "soft" if i < len(summary) or left_out else "blue"
            canvas.add(Text(self.box + 12, y + 38 + 15 * i, line, 11, color))
        if not left_out:
            self._references(bound, y + height / 2)

    def _references(self, bound: BoundStep, y: float) -> None:
        lines = _reference_lines(bound)
        if not lines:
            return
        top = y - 7.5 * (len(lines) - 1) + 4
        for i, line in enumerate(lines):
            self.canvas.add(
                Text(
                    MARGIN + REFERENCES - 8, top + 15 * i, line, 11, "soft", anchor="end", mono=True
                )
            )
        x = self.box
        self.canvas.add(
            Line(MARGIN + REFERENCES - 2, y, x - 2, y, "grey", 1.2),
            Line(x - 8, y - 4, x - 2, y, "grey", 1.2),
            Line(x - 8, y + 4, x - 2, y, "grey", 1.2),
        )

    def _tracks(self, rows: Sequence[tuple[BoundStep, float]], end: float) -> None:
        across: list[Line] = []
        for bound, y in rows:
            used = {*_reads(bound), *bound.step.writes}
            if used:
                x = max(self.tracks[name].x for name in used)
                across.append(Line(self.box + BOX, y, x, y, "faint", 1.2))
        self.canvas.add(*across, Line(self.box + BOX, end, self.last, end, "faint", 1.2))
        for name, track in self.tracks.items():
            used_at = [y for b, y in rows if name in {*_reads(b), *b.step.writes}]
            bottom = end if name in self.kept else max(used_at)
            if bottom > min(used_at):
                self.canvas.add(Line(track.x, min(used_at), track.x, bottom, track.color, 3))

    def _dots(self, rows: Sequence[tuple[BoundStep, float]]) -> None:
        for bound, y in rows:
            reads = _reads(bound)
            for name, track in self.tracks.items():
                x, color, tip = track.x, track.color, f"{bound.name}: {_about(name)}"
                if name in bound.step.writes:
                    self.canvas.add(Circle(x, y, 7, color, tip=tip))
                    if name in reads:
                        self.canvas.add(Circle(x, y, 2.8, "card", tip=tip))
                elif name in reads:
                    self.canvas.add(Circle(x, y, 5, "card", color, 2.4, tip=tip))

    def _names(self, y: float, above: bool) -> None:
        for name, track in self.tracks.items():
            if above:
                self.canvas.add(Text(track.x + 4, y, name, 12.5, track.color, turned=50, bold=True))
            elif name in self.kept:
                text = self.kept[name]
                self.canvas.add(
                    Text(
                        track.x + 4, y, text, 12.5, track.color, anchor="end", turned=50, bold=True
                    )
                )

    def _legend(self, y: float) -> None:
        x = MARGIN + 10
        entries = (("creates", 7, ""), ("changes", 7, "card"), ("reads", 5, ""))
        for text, radius, center in entries:
            if text == "reads":
                self.canvas.add(Circle(x, y, radius, "card", "grey", 2.4))
            else:
                self.canvas.add(Circle(x, y, radius, "grey"))
            if center:
                self.canvas.add(Circle(x, y, 2.8, center))
            self.canvas.add(Text(x + 13, y + 4, text, 12, "soft"))
            x += 90
        self.canvas.add(
            Rect(x - 6, y - 6, 12, 12, "grey", radius=2),
            Text(x + 13, y + 4, "is in the file", 12, "soft"),
        )
        notes = (
            "left: arrays of the Level-1 file and of reference files",
            "right: variables; halo: pixels that a step looks beyond a tile",
        )
        for i, note in enumerate(notes):
            self.canvas.add(Text(MARGIN + 3, y + 30 + 17 * i, note, 12, "soft"))


def _color(name: str) -> str:
    """Colour by kind of variable: a ramp, flags, a rate and its errors, or quality of the fit."""
    variable = VARIABLES[name]
    if variable.dims == "ryx" and variable.dtype == "float32":
        return "blue"
    if variable.dtype.startswith(("uint", "bool")):
        return "orange"
    return "green" if "DN" in variable.unit and name != "dumo" else "purple"


def _reads(bound: BoundStep) -> set[str]:
    step, reduction = bound.step, bound.step.reduction
    measured = reduction.reads_for(bound.params) if reduction else ()
    return {*step.reads, *step.optional_reads, *measured}


def _reference_lines(bound: BoundStep) -> list[str]:
    """Reference arrays, a line or more for each file."""
    step, reduction = bound.step, bound.step.reduction
    names: list[str] = [*step.references_for(bound.params).values()]
    if reduction:
        names += [*reduction.references_for(bound.params).values(), *reduction.whole.values()]
    if step.spill:
        names += step.spill.references.values()
    files: dict[str, list[str]] = {}
    for name in dict.fromkeys(names):
        file, _, array = name.partition(".")
        files.setdefault(file, []).append(array)
    texts = [f"{file}: {', '.join(arrays)}" for file, arrays in files.items()]
    return [line for text in texts for line in textwrap.wrap(text, 42)]


def _summary(bound: BoundStep) -> str:
    first = (bound.step.kernel.__doc__ or "").strip().splitlines() or [""]
    return first[0].replace("`", "")


def _lines(bound: BoundStep) -> tuple[list[str], list[str]]:
    """What the step does, and its options where they differ from their defaults."""
    options = bound.params.model_dump(exclude_defaults=True)
    text = ", ".join(f"{name}: {_shown(value)}" for name, value in options.items())
    return textwrap.wrap(_summary(bound), _LETTERS), textwrap.wrap(text, _LETTERS)


def _shown(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _height(bound: BoundStep) -> float:
    return max(31 + 15 * sum(map(len, _lines(bound))), 10 + 15 * len(_reference_lines(bound)))


def _describe(bound: BoundStep) -> str:
    options = [f"{name}: {_shown(v)}" for name, v in bound.params.model_dump().items()]
    return "\n".join([f"{bound.name}: {_summary(bound)}", *options])


def _about(name: str) -> str:
    variable = VARIABLES[name]
    unit = f", {variable.unit}" if variable.unit else ""
    axes = ", ".join(variable.dims)
    return f"{name} ({axes}; {variable.dtype}{unit}): {variable.meaning}"
