"""A self-contained page of HTML: pictures inside, no script, no network."""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from html import escape
from importlib.resources import files
from pathlib import Path
from typing import Any

from ..errors import InputError
from ..io.atomic import check_target, replacing
from ..system.files import write_new
from .chart import without_links

DPI = 200


@dataclass(frozen=True)
class Cell:
    """A cell of a table; `mark` draws attention to it, `href` makes it a link."""

    text: str
    mark: bool = False
    href: str = ""


@dataclass
class Page:
    """What a page says, collected piece by piece, and its pictures.

    Attributes
    ----------
    title, subtitle : str
    pictures : dict of str to bytes
        Name -> PNG.
    drawings : dict of str to str
        Name -> SVG.
    """

    title: str
    subtitle: str = ""
    pictures: dict[str, bytes] = field(default_factory=dict)
    drawings: dict[str, str] = field(default_factory=dict)
    _head: list[str] = field(default_factory=list)
    _body: list[str] = field(default_factory=list)
    _sections: list[tuple[str, str]] = field(default_factory=list)

    def cards(self, values: Iterable[tuple[str, str]]) -> None:
        """Key numbers, on top."""
        items = [f"<div><dt>{escape(k)}</dt><dd>{escape(v)}</dd></div>" for k, v in values]
        self._head.append(f'<dl class="cards">{"".join(items)}</dl>')

    def section(self, key: str, title: str) -> None:
        """Begin a section; `key` names it in links."""
        self._sections.append((key, title))
        self._body.append(f'<h2 id="{key}">{escape(title)}</h2>')

    def text(self, text: str) -> None:
        """A paragraph."""
        self._body.append(f"<p>{escape(text)}</p>")

    def formula(self, html: str) -> None:
        """A formula in HTML, not escaped."""
        self._body.append(f'<div class="formula">{html}</div>')

    def bullets(self, lines: Sequence[str], of: str = "") -> None:
        """A list; `of` is its class."""
        items = "".join(f"<li>{escape(line)}</li>" for line in lines)
        self._body.append(f'<ul class="{of}">{items}</ul>')

    @contextmanager
    def beside(self) -> Iterator[None]:
        """Put the first piece on the left and the rest to its right, where there is room."""
        before, self._body = self._body, []
        yield
        first, *rest = self._body
        row = f'<div class="row"><div>{first}</div><div>{"".join(rest)}</div></div>'
        self._body = [*before, row]

    def plots(self, plots: Iterable[tuple[str, Any, str]]) -> None:
        """Pictures side by side where there is room: (name, figure, caption)."""
        shown = []
        for name, figure, caption in plots:
            self.pictures[name] = _png(figure)
            data = base64.b64encode(self.pictures[name]).decode()
            width, height = figure.canvas.get_width_height()
            shown.append(
                f'<figure><label class="zoom"><input type="checkbox" aria-label="enlarge">'
                f'<img width="{width}" height="{height}" src="data:image/png;base64,{data}" '
                f'alt="{escape(caption)}"></label><figcaption>{escape(caption)}</figcaption></figure>'
            )
        columns = _columns(len(shown))
        self._body.append(f'<div class="plots of{columns}">{"".join(shown)}</div>')

    def charts(self, charts: Iterable[tuple[str, str, str]]) -> None:
        """Charts side by side where there is room: (name, SVG, caption)."""
        shown = []
        for name, svg, caption in charts:
            self.drawings[name] = without_links(svg)
            shown.append(
                f'<figure class="chart">{svg}<figcaption>{escape(caption)}</figcaption></figure>'
            )
        self._body.append(f'<div class="plots of2">{"".join(shown)}</div>')

    def table(self, names: Sequence[str], rows: Iterable[Sequence[str | Cell]]) -> None:
        """A table; columns of numbers are aligned to the right. Nothing if there are no rows.

        The first column stays where it is when one scrolls sideways.
        """
        cells = [[c if isinstance(c, Cell) else Cell(c) for c in row] for row in rows]
        if not cells:
            return
        columns = zip(*cells, strict=True)
        right = [all(_is_number(cell.text) for cell in column) for column in columns]
        head = "".join(_tag("th", n, r) for n, r in zip(names, right, strict=True))
        body = "".join(
            "<tr>"
            + "".join(
                _tag("td", c.text, r, c.mark, c.href, first=i == 0)
                for i, (c, r) in enumerate(zip(row, right, strict=True))
            )
            + "</tr>"
            for row in cells
        )
        many = ' class="many"' if len(names) > 6 else ""  # one has to scroll in it, anyway
        self._body.append(
            f'<div class="wide"><table{many}><thead><tr>{head}</tr></thead><tbody>{body}</tbody>'
            "</table></div>"
        )

    def pre(self, title: str, text: str) -> None:
        """Preformatted text, folded away."""
        summary = f"<summary>{escape(title)}</summary>"
        self._body.append(f"<details>{summary}<pre>{escape(text)}</pre></details>")

    def html(self) -> str:
        """The page."""
        links = "".join(f'<a href="#{key}">{escape(title)}</a>' for key, title in self._sections)
        style = files(__package__).joinpath("page.css").read_text()
        return (
            '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
            '<meta name="viewport" content="width=device-width, initial-scale=1">'
            '<meta http-equiv="Content-Security-Policy" '
            "content=\"default-src 'none'; img-src data:; style-src 'unsafe-inline'\">"
            '<link rel="icon" href="data:,">'
            f"<title>{escape(self.title)}</title><style>{style}</style></head>\n<body>"
            f'<header><h1>{escape(self.title)}</h1><p class="sub">{escape(self.subtitle)}</p>'
            f"{''.join(self._head)}<nav>{links}</nav>"
            '<p class="hint">Tap or click a picture to enlarge it.</p></header>\n<main>'
            + "\n".join(self._body)
            + "</main></body></html>\n"
        )

    def write(self, path: Path, png: Path | None = None) -> None:
        """Write the page, and each picture as a PNG, charts as SVG, into the folder `png`.

        Raises
        ------
        InputError
            If it cannot be written.
        """
        check_target(path)
        try:
            with replacing(path) as (part,):
                write_new(part, self.html())
            if png is not None:
                png.mkdir(parents=True, exist_ok=True)
                drawn = {f"{name}.svg": svg.encode() for name, svg in self.drawings.items()}
                drawn |= {f"{name}.png": picture for name, picture in self.pictures.items()}
                for name, data in drawn.items():
                    with replacing(png / name) as (part,):
                        write_new(part, data)
        except OSError as error:
            where = error.filename or path
            raise InputError(f"{where}: cannot be written: {error.strerror or error}") from None


def _png(figure: Any) -> bytes:
    """PNG of a figure, in 256 colours that are chosen for it: a third of the size, and hardly any
    colour is off by more than 3 of 255."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from PIL import Image

    figure.set_dpi(DPI)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    size = canvas.get_width_height()
    picture = Image.frombytes("RGBA", size, bytes(canvas.buffer_rgba())).convert("RGB")
    few = picture.quantize(256, method=Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE)
    buffer = io.BytesIO()
    few.save(buffer, format="png", compress_level=6)
    return buffer.getvalue()


def _columns(pictures: int) -> int:
    """Columns in which so many pictures leave no gap, or a small one."""
    if pictures <= 3:
        return max(pictures, 1)
    return 3 if pictures % 3 == 0 or (pictures > 4 and pictures % 2) else 2


def _tag(
    tag: str, text: str, right: bool, mark: bool = False, href: str = "", first: bool = False
) -> str:
    kinds = " ".join(["n"] * right + ["mark"] * mark)
    inner = escape(text)
    if first:  # where there is little room, identities break between their parts
        inner = inner.replace(",", ",<wbr>")
    if href:
        inner = f'<a href="{escape(href)}">{inner}</a>'
    return f'<{tag} class="{kinds}">{inner}</{tag}>' if kinds else f"<{tag}>{inner}</{tag}>"


_NUMBER = re.compile(r"[▲▼< ]*[-+−]?[\d.,]+(e[-+]?\d+)?[ ]?(%|s|DN|DN/s|GB)?|[-–]?|NaN")


def _is_number(text: str) -> bool:
    return _NUMBER.fullmatch(text) is not None


def capital(text: str) -> str:
    """A text with a capital letter at its beginning."""
    return text[:1].upper() + text[1:]
