"""An exposure with noise layers, its report, and a parser that is strict about pages."""

from __future__ import annotations

import base64
import struct
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

SIDE = 512
LAYERS = ["RS2", "PbS1", "RP"]
VOID = {"meta", "link", "img", "input", "br"}


@pytest.fixture(scope="session")
def exposure_with_noise(tmp_path_factory):
    """``config``, ``l2`` and ``noise`` of a calibrated exposure; not to be changed."""
    from roman_dask_l2 import calibrate, generate_noise
    from roman_dask_l2.simulate import simulate

    folder = tmp_path_factory.mktemp("exposure")
    made = simulate(folder, side=SIDE, seed=5)
    (folder / "temp").mkdir()
    config = yaml.safe_load(made.config.read_text())
    noise = {"LAYER": LAYERS, "TEMP": "temp", "SEED": 3, "OUT": "l2_noise.asdf"}
    made.config.write_text(yaml.safe_dump(config | {"NOISE": noise, "SLICEOUT": True}))
    l2 = calibrate(made.config).out
    return SimpleNamespace(config=made.config, l2=l2, noise=generate_noise(made.config).out)


class Parsed(HTMLParser):
    """A page, taken apart; a tag that is not closed, or closes another one, is an error."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.ids: list[str] = []
        self.images: list[dict[str, str]] = []
        self.addresses: list[str] = []
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
        if tag == "img":
            self.images.append(given)
        if tag not in VOID:
            self._open.append(tag)

    def handle_endtag(self, tag):
        assert self._open.pop() == tag

    def handle_data(self, data):
        if self._open[-1:] != ["style"]:
            self.text += data


def _check(path: Path) -> Parsed:
    page = Parsed(path)
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


@pytest.fixture(scope="session")
def check_page():
    """``check_page(path)``: the page, parsed, if it needs nothing but itself."""
    return _check
