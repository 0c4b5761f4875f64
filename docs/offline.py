"""Built pages must be whole without a network: nothing in them may load from elsewhere.

    python docs/offline.py docs/_build/html

Names each script, style sheet, font, picture or frame that a page would fetch, and ends with 1 if
there is one. Links that a reader follows are not meant.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

OUTSIDE = re.compile(r"\s*(?:https?:)?//", re.IGNORECASE)
IN_STYLE = re.compile(
    r"""(?:url\(\s*["']?|@import\s+["'])((?:https?:)?//[^"')\s]*)""", re.IGNORECASE
)
IN_SCRIPT = re.compile(
    r"""(?:\bimport\s*\(?\s*|\bfrom\s*|\bfetch\(\s*|\.src\s*=\s*)["'`]((?:https?:)?//[^"'`]*)"""
)
LOADS = {"src", "srcset", "poster", "data", "background", "xlink:href"}
"""Attributes whose address a browser fetches, in whatever element they are."""


class Page(HTMLParser):
    """Collects in `found` what a page fetches from elsewhere."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self.within = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.within = tag
        given = {name: value or "" for name, value in attrs}
        loads = LOADS | ({"href"} if tag in ("image", "use") else set())
        if tag == "link" and not {"canonical", "alternate", "next", "prev", "search"} & set(
            given.get("rel", "").lower().split()
        ):
            loads = loads | {"href"}
        for name in loads & set(given):
            if OUTSIDE.match(given[name]) or re.search(r",\s*(?:https?:)?//", given[name]):
                self.found.append(given[name])
        self.found += IN_STYLE.findall(given.get("style", ""))

    def handle_data(self, data: str) -> None:
        if self.within == "style":
            self.found += IN_STYLE.findall(data)
        elif self.within == "script":
            self.found += IN_SCRIPT.findall(data)

    def handle_endtag(self, tag: str) -> None:
        self.within = ""


def fetched(file: Path) -> list[str]:
    """Addresses elsewhere that a page, style sheet, drawing or script fetches."""
    text = file.read_text(errors="replace")
    if file.suffix == ".css":
        return IN_STYLE.findall(text)
    if file.suffix == ".js":
        return IN_SCRIPT.findall(text)
    page = Page()
    page.feed(text)
    return page.found


def check(folder: Path) -> Iterator[str]:
    """One line for each address that a file below the directory fetches."""
    files = [f for f in sorted(folder.rglob("*")) if f.suffix in (".html", ".css", ".js", ".svg")]
    if not files:
        yield f"{folder}: no pages"
    for file in files:
        for address in fetched(file):
            yield f"{file}: loads {address}"


if __name__ == "__main__":
    lines = list(check(Path(sys.argv[1])))
    print(*lines, sep="\n", end="\n" if lines else "")
    sys.exit(bool(lines))
