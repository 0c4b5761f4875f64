"""Drawings of recipes and of task graphs."""

from __future__ import annotations

import itertools
import re
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from roman_dask_l2.cli import app
from roman_dask_l2.config.recipe import load_recipe, shipped
from roman_dask_l2.drawing import canvas as sheet
from roman_dask_l2.drawing.canvas import Canvas, Circle, Line, Rect, Text
from roman_dask_l2.drawing.recipe import BOX, _summary, draw_recipe
from roman_dask_l2.drawing.tasks import TILE, _direct, draw_tasks
from roman_dask_l2.errors import InputError

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("name", shipped())
def test_shipped_drawings_are_up_to_date(name):
    """If not: roman-dask-l2 graph --graph NAME -o graphs/NAME.svg, and look at it."""
    assert (ROOT / "graphs" / f"{name}.svg").read_text() == draw_recipe(load_recipe(name)).svg()


@pytest.mark.parametrize("name", shipped())
def test_steps_are_described_for_readers(name):
    """One plain sentence; no names of variables or functions, nothing to look up elsewhere."""
    for bound in load_recipe(name).steps:
        said = _summary(bound)
        assert re.fullmatch(r"[A-Z][a-z]+ [^`_=<>]+\.", said), said
        assert not re.search(r"\bsee\b|coefficients|\bmedsky\b", said), said


@pytest.fixture(scope="module")
def drawn():
    return draw_recipe(load_recipe("romanimpreprocess_1.0"))


def texts(canvas):
    return [shape.text for shape in canvas.shapes if isinstance(shape, Text)]


def test_everything_is_in_it(drawn):
    recipe = load_recipe("romanimpreprocess_1.0")
    said = texts(drawn)
    assert all(bound.name in said for bound in recipe.steps)
    made = {name for bound in recipe.steps for name in bound.step.writes}
    assert made <= set(said)
    assert {"data_withsky", "dq", "mask"} <= set(said)  # what the file calls them
    assert any("through_dark: true" in text for text in said)
    halos = [b.step.halo(b.params) for b in recipe.steps if b.name in ("saturation", "ipc", "mask")]
    assert halos == [2, 2, 2]
    assert said.count("halo 2") >= 3
    assert any("linearitylegendre: data, Smin" in text for text in said)


def test_valid_svg_inside_its_sheet(drawn):
    root = ET.fromstring(drawn.svg())
    assert root.tag.endswith("svg")
    assert "prefers-color-scheme: dark" in drawn.svg()
    for shape in drawn.shapes:
        match shape:
            case Rect():
                corners = [(shape.x, shape.y), (shape.x + shape.width, shape.y + shape.height)]
            case Line():
                corners = [(shape.x0, shape.y0), (shape.x1, shape.y1)]
            case Circle() | Text():
                corners = [(shape.x, shape.y)]
        for x, y in corners:
            assert 0 <= x <= drawn.width
            assert 0 <= y <= drawn.height


def test_steps_do_not_overlap_and_their_words_fit(drawn):
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import TextToPath

    boxes = [s for s in drawn.shapes if isinstance(s, Rect) and s.width == BOX and s.tip]
    assert len(boxes) == len(load_recipe("romanimpreprocess_1.0").steps)
    for above, below in itertools.pairwise(boxes):
        assert above.y + above.height < below.y
    wide = TextToPath()
    for text in (s for s in drawn.shapes if isinstance(s, Text) and not s.turned):
        family = "monospace" if text.mono else "sans-serif"
        font = FontProperties(family=family, size=text.size)
        width = wide.get_text_width_height_descent(text.text, font, False)[0]
        start = {"start": text.x, "middle": text.x - width / 2, "end": text.x - width}[text.anchor]
        assert start >= 0, text.text
        for box in boxes:
            if box.x <= text.x <= box.x + box.width and box.y <= text.y <= box.y + box.height:
                assert start + width <= box.x + box.width, text.text


def luminance(color):
    parts = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
    return sum(w * c for w, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


@pytest.mark.parametrize("theme", [sheet.LIGHT, sheet.DARK], ids=["light", "dark"])
def test_readable_in_light_and_dark(theme):
    """Contrast of words as the Web Content Accessibility Guidelines (AA) want it."""
    assert set(theme) == set(sheet.LIGHT)
    for words in ("ink", "soft", "blue", "orange", "green", "purple"):
        for ground in ("sheet", "card", "band", "file", "pill"):
            if (words, ground) in itertools.product(
                ("blue", "orange", "green", "purple", "soft"), ("file", "pill")
            ) and (words, ground) != ("soft", "pill"):
                continue  # not written there
            pair = sorted((luminance(theme[words]), luminance(theme[ground])))
            assert (pair[1] + 0.05) / (pair[0] + 0.05) >= 4.5, (words, ground)


def test_png_and_html(drawn, tmp_path):
    drawn.save(tmp_path / "a.png")
    head = (tmp_path / "a.png").read_bytes()[:24]
    size = int.from_bytes(head[16:20], "big"), int.from_bytes(head[20:24], "big")
    assert abs(size[0] - drawn.width) <= 1
    assert abs(size[1] - drawn.height) <= 1
    drawn.save(tmp_path / "a.html")
    page = (tmp_path / "a.html").read_text()
    assert page.startswith("<!DOCTYPE html>")
    assert not re.search(r'(src|href)="|url\(', page)  # nothing is fetched
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.html", "a.png"]


def test_names_are_escaped():
    canvas = Canvas("a < b", 10, 10, [Text(1, 1, "<&>"), Circle(2, 2, 1, "ink", tip='"<')])
    assert texts(canvas)[0] in "".join(ET.fromstring(canvas.svg()).itertext())


def test_of_an_exposure(simulated, tmp_path, capsys):
    out = tmp_path / "mine.svg"
    assert app.main(["graph", str(simulated().config), "-o", str(out)]) == 0
    assert out.name in capsys.readouterr().out
    text = out.read_text()
    assert text.count(">not applied<") == 2  # dark_decay, wfi18_transient
    assert ">order: 2<" in text  # a key of the configuration
    assert ">where it applies<" not in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-o", "x.pdf"], "expected a name that ends in .svg, .html, .png"),
        (["-o", "nowhere/x.svg"], "does not exist"),
        (["--graph", "l1_to_l3"], "did you mean 'l1_to_l2'"),
        (["--per-step"], "expected together with --tasks"),
    ],
)
def test_bad_input(arguments, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert app.main(["graph", *arguments]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert message in lines[0]
    assert list(tmp_path.iterdir()) == []


def test_png_without_matplotlib(drawn, tmp_path, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(InputError, match="roman-dask-l2.plots"):
        drawn.save(tmp_path / "a.png")
    assert list(tmp_path.iterdir()) == []


def test_task_graph():
    canvas = draw_tasks("l1_to_l2")
    said = texts(canvas)
    n_tiles = -(-256 // TILE[0])
    assert f"dq_init-to-flat x {n_tiles}" in said
    assert f"copy x {n_tiles}" in said
    assert not any(re.search("[0-9a-f]{16}", text) for text in said)
    nodes = [shape for shape in canvas.shapes if isinstance(shape, Circle)]
    assert said[0] == f"l1_to_l2: {len(nodes)} tasks"
    edges = [shape for shape in canvas.shapes if isinstance(shape, Line)]
    assert len(edges) > len(nodes)
    assert all(edge.y0 < edge.y1 for edge in edges)  # nothing waits for what stands below it
    assert draw_tasks("l1_to_l2").svg() == canvas.svg()


def test_only_direct_waits():
    a, b, c, d = (("x", (i,), 0) for i in range(4))
    assert _direct({a: set(), b: {a}, c: {a, b}, d: {a, c}}) == {a: set(), b: {a}, c: {b}, d: {c}}
