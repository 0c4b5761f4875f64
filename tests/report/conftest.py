"""An exposure with noise layers, its report, and a parser that is strict about pages."""

from __future__ import annotations

import base64
import re
import struct
from contextlib import contextmanager
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest
import yaml

from roman_dask_l2.report.page import Page

SIDE = 512
LAYERS = ["RS2", "PbS1", "RP"]
VOID = {"meta", "link", "img", "input", "br", "wbr"}


@pytest.fixture(scope="module", autouse=True)
def _blank(blank_pictures):
    """Pictures are drawn only where a test asks for it with ``with drawn():``."""


@pytest.fixture(scope="session")
def exposure_with_noise(tmp_path_factory):
    """``config``, ``l2`` and ``noise`` of a calibrated exposure; not to be changed."""
    from roman_dask_l2.products.level2 import calibrate
    from roman_dask_l2.products.noise_layers import generate_noise
    from roman_dask_l2.simulation.simulate import simulate

    folder = tmp_path_factory.mktemp("exposure")
    made = simulate(folder, side=SIDE, seed=5)
    (folder / "temp").mkdir()
    config = yaml.safe_load(made.config.read_text())
    noise = {"LAYER": LAYERS, "TEMP": "temp", "SEED": 3, "OUT": "l2_noise.asdf"}
    made.config.write_text(yaml.safe_dump(config | {"NOISE": noise, "SLICEOUT": True}))
    l2 = calibrate(made.config).out
    return SimpleNamespace(config=made.config, l2=l2, noise=generate_noise(made.config).out)


@dataclass
class Chart:
    """An SVG of a page: its name, what its dots and its text say, where they lead."""

    name: str
    dots: list[str] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    links: list[str] = field(default_factory=list)


class Parsed(HTMLParser):
    """A page, taken apart; a tag that is not closed, or closes another one, is an error."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.ids: list[str] = []
        self.images: list[dict[str, str]] = []
        self.addresses: list[str] = []
        self.links: list[str] = []
        self.charts: list[Chart] = []
        self.tags: set[str] = set()
        self.text = ""
        self._open: list[str] = []
        self.html = path.read_text(encoding="utf-8")
        self.feed(self.html)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        self.tags.add(tag)
        self.ids += [given["id"]] if "id" in given else []
        self.addresses += [given[key] for key in ("src", "href", "srcset") if key in given]
        if tag == "a" and not given["href"].startswith("#"):
            self.links.append(self.addresses.pop())
        if tag == "svg":
            self.charts.append(Chart(given["aria-label"]))
        elif "svg" in self._open and tag == "a":
            self.charts[-1].links.append(given["href"])
        elif "svg" in self._open and tag in ("title", "text"):
            (self.charts[-1].dots if tag == "title" else self.charts[-1].texts).append("")
        if tag == "img":
            self.images.append(given)
        if tag not in VOID:
            self._open.append(tag)

    def handle_endtag(self, tag):
        assert self._open.pop() == tag

    def handle_data(self, data):
        if self._open[-1:] != ["style"]:
            self.text += data
        if "svg" in self._open and self._open[-1] in ("title", "text"):
            said = self.charts[-1].dots if self._open[-1] == "title" else self.charts[-1].texts
            said[-1] += data


def _check(path: Path, links: bool = False) -> Parsed:
    page = Parsed(path)
    assert links or not page.links
    for address in page.links:  # relative, to a file that is there
        parts = urlsplit(address)
        assert (parts.scheme, parts.netloc, parts.query) == ("", "", "")
        assert not address.startswith("/")
        assert (path.parent / unquote(parts.path)).is_file()
    assert len({chart.name for chart in page.charts}) == len(page.charts)
    for one in page.charts:
        assert len(one.name) > 10
        assert one.dots
        assert all(": " in dot for dot in one.dots)
        assert set(one.links) <= set(page.links)
    assert page.html.startswith("<!DOCTYPE html>")
    assert 'name="viewport"' in page.html
    assert not {"script", "iframe", "object", "embed", "base"} & page.tags
    assert "url(" not in page.html
    assert "@import" not in page.html
    assert "http-equiv" in page.html
    assert "default-src 'none'" in page.html
    assert len(page.ids) == len(set(page.ids))
    for address in page.addresses:
        assert address.startswith(("data:", "#"))
        assert not address.startswith("#") or address[1:] in page.ids
    for image in page.images:
        kind, _, data = image["src"].partition(",")
        assert kind == "data:image/png;base64"
        png = base64.b64decode(data, validate=True)
        assert png.startswith(b"\x89PNG\r\n\x1a\n")
        assert len(image["alt"]) > 10
        size = struct.unpack(">II", png[16:24])
        assert size == (int(image["width"]), int(image["height"]))
    return page


PER = r"1e-6 / pixel / s|10\$\^\{-6\}\$ / pixel / s|\(DN/s\)\$\^2\$ / \(cycle/pixel\)"
UNITS = rf"(?:pixel|s|deg|arcmin|%|DN|DN/s|cycles/pixel|1/\(DN/s\)|{PER})"
AXIS = re.compile(rf".*\({UNITS}(?:, means of \d+ rows)?\)")
BAR = re.compile(rf"(?:.*\()?{UNITS}\)?(?: above [\d.e-]+)?(?:, asinh stretch; grey: masked)?")
BARE = {
    "density", "pixels per bin", "chi-square per degree of freedom", "reduced chi-square",
    "resultant", "readout channel", "detector (WFI..)", "stage", "step",
}  # fmt: skip
"""What has no unit."""


def _unclear(figure) -> list[str]:
    """Labels that do not say what it is, and in which unit; of a bar, the title says what."""
    found = []
    for ax in figure.axes:
        if hasattr(ax, "_colorbar"):
            labels, known = [ax.get_xlabel() or ax.get_ylabel()], BAR
        else:
            shared = not ax.xaxis.get_tick_params()["labelbottom"]  # with the axes below
            labels, known = [ax.get_ylabel(), *([] if shared else [ax.get_xlabel()])], AXIS
        found += [label for label in labels if label not in BARE and not known.fullmatch(label)]
    return found


@contextmanager
def _plots():
    figures: dict[str, Any] = {}
    original = Page.plots

    def keep(page, plots):
        plots = list(plots)
        figures.update((name, figure) for name, figure, _ in plots)
        original(page, plots)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Page, "plots", keep)
        yield figures
    for name, figure in figures.items():
        assert figure.axes
        assert _unclear(figure) == [], name


@pytest.fixture(scope="session")
def plots():
    """``with plots() as figures``: the plots of the pages that are written in the block, by name.
    Each of their axes and bars must say what it shows, and in which unit."""
    return _plots


@pytest.fixture(scope="session")
def check_page():
    """``check_page(path)``: the page, parsed, if it needs nothing but itself; with ``links=True``
    it may lead to other files, which must be there."""
    return _check
