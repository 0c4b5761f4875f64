"""Shapes on a sheet, written as SVG, HTML or PNG. The same shapes give the same bytes of SVG."""

from __future__ import annotations

from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Any

from ..errors import InputError
from ..io.atomic import check_target, replacing
from ..system.files import write_new

FONT = "system-ui, 'Segoe UI', 'Noto Sans', 'DejaVu Sans', sans-serif"
MONO = "ui-monospace, 'SFMono-Regular', 'DejaVu Sans Mono', monospace"

LIGHT = {
    "sheet": "#ffffff", "ink": "#1b1f24", "soft": "#57606a", "faint": "#d0d7de",
    "band": "#f3f6fa", "edge": "#c3ccd6", "card": "#ffffff", "file": "#fff4d6",
    "pill": "#e3ecf7", "blue": "#0060a0", "orange": "#b84a00", "green": "#00795a",
    "purple": "#9a3f78", "grey": "#6e7781",
}  # fmt: skip
"""Colours by their part in a picture; those of variables differ for the colour-blind, too."""
DARK = {
    "sheet": "#0f1419", "ink": "#e6edf3", "soft": "#a3adb8", "faint": "#3b434d",
    "band": "#1a212a", "edge": "#3f4a57", "card": "#222b36", "file": "#40351a",
    "pill": "#2c3b4e", "blue": "#62b4f0", "orange": "#f0954a", "green": "#3fcf9f",
    "purple": "#e592c4", "grey": "#9aa4af",
}  # fmt: skip
SUFFIXES = (".svg", ".html", ".png")
_SIDES: dict[str, Any] = {"start": "left", "middle": "center", "end": "right"}


@dataclass(frozen=True)
class Rect:
    x: float
    y: float
    width: float
    height: float
    fill: str
    stroke: str = ""
    radius: float = 0.0
    dashed: bool = False
    tip: str = ""


@dataclass(frozen=True)
class Line:
    """From one point to another; `curved` leaves and arrives vertically."""

    x0: float
    y0: float
    x1: float
    y1: float
    stroke: str
    width: float = 1.0
    curved: bool = False
    opacity: float = 1.0


@dataclass(frozen=True)
class Circle:
    x: float
    y: float
    radius: float
    fill: str
    stroke: str = ""
    width: float = 2.0
    tip: str = ""


@dataclass(frozen=True)
class Text:
    """`anchor` is start, middle or end, `y` that of the baseline, `turned` in degrees."""

    x: float
    y: float
    text: str
    size: float = 13.0
    color: str = "ink"
    anchor: str = "start"
    bold: bool = False
    mono: bool = False
    turned: float = 0.0


@dataclass
class Canvas:
    """A sheet, in pixels from its upper left corner.

    Attributes
    ----------
    title : str
        What the picture shows, for those who cannot see it.
    shapes : list
        The later ones lie on top.
    """

    title: str
    width: float = 0.0
    height: float = 0.0
    shapes: list[Rect | Line | Circle | Text] = field(default_factory=list)

    def add(self, *shapes: Rect | Line | Circle | Text) -> None:
        self.shapes += shapes

    def svg(self) -> str:
        """In light or dark colours, whichever scheme the reader prefers."""
        size = f'width="{_n(self.width)}" height="{_n(self.height)}"'
        lines = [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_n(self.width)} '
            f'{_n(self.height)}" {size} role="img" font-family="{FONT}">',
            f"<title>{escape(self.title)}</title>",
            f"<style>{_style(LIGHT)}@media (prefers-color-scheme: dark){{{_style(DARK)}}}</style>",
            f'<rect {size} class="f-sheet"/>',
            *(_svg(shape) for shape in self.shapes),
            "</svg>",
        ]
        return "\n".join(lines) + "\n"

    def html(self) -> str:
        """A page with the picture in it; further explanations appear under the pointer."""
        return (
            '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">\n'
            '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
            f"<title>{escape(self.title)}</title>\n"
            f"<style>body{{margin:0;overflow-x:auto;background:{LIGHT['sheet']}}}"
            f"svg{{display:block;margin:auto}}"
            f"@media (prefers-color-scheme: dark){{body{{background:{DARK['sheet']}}}}}</style>\n"
            f"</head><body>\n{self.svg()}</body></html>\n"
        )

    def save(self, path: Path) -> None:
        """Write a file in the format that its name ends with.

        Raises
        ------
        InputError
            If that is none of `SUFFIXES`, or the file cannot be written.
        """
        if path.suffix not in SUFFIXES:
            raise InputError(f"-o {path}: expected a name that ends in {', '.join(SUFFIXES)}")
        check_target(path.absolute(), f"-o {path}")
        with replacing(path.absolute()) as (part,):
            if path.suffix == ".png":
                self._png(part)
            else:
                text = self.svg() if path.suffix == ".svg" else self.html()
                write_new(part, text)

    def _png(self, path: Path) -> None:
        try:
            from matplotlib.backends.backend_agg import FigureCanvasAgg
            from matplotlib.figure import Figure
        except ImportError:
            raise InputError(
                "PNG needs matplotlib: pip install 'roman-dask-l2[plots]'; SVG and HTML do not"
            ) from None
        figure = Figure(figsize=(self.width / 100, self.height / 100), facecolor=LIGHT["sheet"])
        axes = figure.add_axes((0, 0, 1, 1), xlim=(0, self.width), ylim=(self.height, 0))
        axes.axis("off")
        for i, shape in enumerate(self.shapes):
            axes.add_artist(_artist(shape, i))
        FigureCanvasAgg(figure).print_png(path, metadata={"Title": self.title})


def _n(number: float) -> str:
    """A number without superfluous digits."""
    return f"{number:.2f}".rstrip("0").rstrip(".")


def _style(colors: dict[str, str]) -> str:
    return "".join(f".f-{name}{{fill:{c}}}.s-{name}{{stroke:{c}}}" for name, c in colors.items())


def _svg(shape: Rect | Line | Circle | Text) -> str:
    match shape:
        case Rect():
            place = f'x="{_n(shape.x)}" y="{_n(shape.y)}" width="{_n(shape.width)}"'
            more = f' rx="{_n(shape.radius)}"' if shape.radius else ""
            more += ' stroke-dasharray="5 4"' if shape.dashed else ""
            kind = f"f-{shape.fill}" + (f" s-{shape.stroke}" if shape.stroke else "")
            start = f'<rect {place} height="{_n(shape.height)}"{more} class="{kind}"'
            return _tipped(start, "rect", shape.tip)
        case Circle():
            place = f'cx="{_n(shape.x)}" cy="{_n(shape.y)}" r="{_n(shape.radius)}"'
            kind = f"f-{shape.fill}" + (f" s-{shape.stroke}" if shape.stroke else "")
            width = f' stroke-width="{_n(shape.width)}"' if shape.stroke else ""
            return _tipped(f'<circle {place}{width} class="{kind}"', "circle", shape.tip)
        case Line():
            middle = (shape.y0 + shape.y1) / 2
            path = f"M{_n(shape.x0)} {_n(shape.y0)}" + (
                f"C{_n(shape.x0)} {_n(middle)} {_n(shape.x1)} {_n(middle)} "
                if shape.curved
                else "L"
            )
            path += f"{_n(shape.x1)} {_n(shape.y1)}"
            opacity = f' opacity="{_n(shape.opacity)}"' if shape.opacity < 1 else ""
            return (
                f'<path d="{path}" fill="none" stroke-width="{_n(shape.width)}"{opacity} '
                f'class="s-{shape.stroke}"/>'
            )
        case Text():
            more = f' text-anchor="{shape.anchor}"' if shape.anchor != "start" else ""
            more += ' font-weight="600"' if shape.bold else ""
            more += f' font-family="{MONO}"' if shape.mono else ""
            place = f'x="{_n(shape.x)}" y="{_n(shape.y)}"'
            if shape.turned:
                more += f' transform="rotate({_n(-shape.turned)} {_n(shape.x)} {_n(shape.y)})"'
            return (
                f'<text {place} font-size="{_n(shape.size)}"{more} class="f-{shape.color}">'
                f"{escape(shape.text)}</text>"
            )


def _tipped(start: str, tag: str, tip: str) -> str:
    return f"{start}><title>{escape(tip)}</title></{tag}>" if tip else f"{start}/>"


def _artist(shape: Rect | Line | Circle | Text, order: int) -> Any:
    """The same for matplotlib, whose points are 100/72 of our pixels."""
    from matplotlib.patches import Circle as Disc
    from matplotlib.patches import FancyBboxPatch, PathPatch
    from matplotlib.path import Path as Outline
    from matplotlib.text import Text as Label

    point = 0.72
    match shape:
        case Rect():
            style = f"round,pad=0,rounding_size={shape.radius}"
            return FancyBboxPatch(
                (shape.x, shape.y), shape.width, shape.height,
                boxstyle=style if shape.radius else "square,pad=0",
                facecolor=LIGHT[shape.fill], edgecolor=LIGHT.get(shape.stroke, "none"),
                linewidth=point, linestyle=(0, (5, 4)) if shape.dashed else "-", zorder=order,
            )  # fmt: skip
        case Circle():
            return Disc(
                (shape.x, shape.y), shape.radius, facecolor=LIGHT[shape.fill],
                edgecolor=LIGHT.get(shape.stroke, "none"), linewidth=shape.width * point,
                zorder=order,
            )  # fmt: skip
        case Line():
            middle = (shape.y0 + shape.y1) / 2
            points = [(shape.x0, shape.y0), (shape.x1, shape.y1)]
            codes = [Outline.MOVETO, Outline.LINETO]
            if shape.curved:
                points[1:1] = [(shape.x0, middle), (shape.x1, middle)]
                codes = [Outline.MOVETO, Outline.CURVE4, Outline.CURVE4, Outline.CURVE4]
            return PathPatch(
                Outline(points, codes), facecolor="none", edgecolor=LIGHT[shape.stroke],
                linewidth=shape.width * point, alpha=shape.opacity, zorder=order,
            )  # fmt: skip
        case Text():
            return Label(
                shape.x, shape.y, shape.text, fontsize=shape.size * point,
                color=LIGHT[shape.color], fontweight="bold" if shape.bold else "normal",
                family="monospace" if shape.mono else "sans-serif", rotation=shape.turned,
                rotation_mode="anchor", verticalalignment="baseline", parse_math=False,
                horizontalalignment=_SIDES[shape.anchor], zorder=order,
            )  # fmt: skip
