"""A headless Chromium, told what to do by its DevTools protocol.

Only what the tests of pages need. The WebSocket client is tornado's, which comes with Dask.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import os
import shutil
import subprocess
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome")
PATIENCE = 60.0
"""Seconds to wait for Chromium, or for one of its answers."""


def find() -> str | None:
    """The program, None if it is not installed."""
    return next((path for name in NAMES if (path := shutil.which(name))), None)


@dataclass
class Seen:
    """What a browser found in a page.

    Attributes
    ----------
    console : list of str
        Messages, errors and exceptions.
    requests : list of str
        Addresses that were asked for, but for the page itself.
    overflow : int
        Pixels by which the page is wider than the window.
    wide : list of str
        Elements that reach beyond it, but for those that scroll.
    cut : list of str
        First words of tables that are wider than their place, so that one has to scroll in them.
    loose : list of str
        First words of those among them whose first column does not stay when one scrolls.
    pictures, broken : int
        Images; those of them that could not be decoded.
    charts, dots : int
        Drawings in SVG, and marks in them that say what they are.
    small, outside : list of str
        Words in them that are smaller than `LEAST` pixels, or reach beyond their drawing.
    links : list of str
        Links within the page that lead nowhere.
    height : int
    picture : bytes
        PNG of the whole page.
    """

    console: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)
    overflow: int = 0
    wide: list[str] = field(default_factory=list)
    cut: list[str] = field(default_factory=list)
    loose: list[str] = field(default_factory=list)
    pictures: int = 0
    broken: int = 0
    charts: int = 0
    dots: int = 0
    small: list[str] = field(default_factory=list)
    outside: list[str] = field(default_factory=list)
    links: list[str] = field(default_factory=list)
    height: int = 0
    picture: bytes = b""


LEAST = 10
"""Height of the smallest letters that can be read, CSS pixels."""

_ASK = """(async () => {
  await Promise.all([...document.images].map(i => i.decode().catch(() => 0)));
  const images = [...document.images];
  const cut = [...document.querySelectorAll('.wide')].filter(e => e.scrollWidth > e.clientWidth);
  const name = e => e.querySelector('th').textContent;
  const moves = e => {
    e.scrollLeft = 1e6;
    const moved = [...e.querySelectorAll('th:first-child, td:first-child')].some(
      c => Math.abs(c.getBoundingClientRect().left - e.getBoundingClientRect().left) > 1);
    e.scrollLeft = 0;
    return moved;
  };
  const words = [...document.querySelectorAll('svg text')];
  const leaves = t => {
    const own = t.getBoundingClientRect(), all = t.ownerSVGElement.getBoundingClientRect();
    return own.left < all.left - 1 || own.right > all.right + 1
      || own.top < all.top - 1 || own.bottom > all.bottom + 1;
  };
  return JSON.stringify({
    overflow: document.documentElement.scrollWidth - WIDTH,
    wide: [...document.querySelectorAll('body *')].filter(
      e => e.getBoundingClientRect().right > WIDTH && !e.closest('.wide, pre, .zoom, .formula'))
      .slice(0, 5).map(e => e.outerHTML.slice(0, 60)),
    cut: cut.map(name),
    loose: cut.filter(moves).map(name),
    charts: document.querySelectorAll('svg').length,
    dots: document.querySelectorAll('svg g > title').length,
    small: words.filter(
      t => parseFloat(getComputedStyle(t).fontSize) * t.getScreenCTM().a < LEAST)
      .slice(0, 5).map(t => t.textContent),
    outside: words.filter(leaves).slice(0, 5).map(t => t.textContent),
    pictures: images.length,
    broken: images.filter(i => !i.complete || i.naturalWidth === 0).length,
    links: [...document.querySelectorAll('a[href^="#"]')].map(a => a.getAttribute('href'))
      .filter(h => !document.getElementById(h.slice(1))),
    height: document.documentElement.scrollHeight,
  });
})()"""


def look(page: Path, width: int, height: int = 900, *, click: str = "") -> Seen:
    """Open a page in a window of some width, as a phone does if it is narrow.

    Parameters
    ----------
    page : Path
    width, height : int
        CSS pixels.
    click : str
        CSS selector of an element to click before looking.
    """
    return asyncio.run(_look(page, width, height, click))


async def _look(page: Path, width: int, height: int, click: str) -> Seen:
    program = find()
    assert program is not None
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        command = [
            program, "--headless=new", "--remote-debugging-port=0", f"--user-data-dir={folder}",
            "--no-first-run", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars",
            "--disable-background-networking", "--disable-component-update", "about:blank",
        ]  # fmt: skip
        if os.geteuid() == 0:
            command.insert(1, "--no-sandbox")
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        with subprocess.Popen(command, **quiet) as process:
            try:
                return await _session(Path(folder), page, width, height, click)
            finally:
                process.terminate()
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(10)
                process.kill()


async def _session(folder: Path, page: Path, width: int, height: int, click: str) -> Seen:
    from tornado.httpclient import AsyncHTTPClient
    from tornado.websocket import websocket_connect

    port = await _port(folder)
    answer = await AsyncHTTPClient().fetch(f"http://127.0.0.1:{port}/json/list")
    target = next(t for t in json.loads(answer.body) if t["type"] == "page")
    socket = await websocket_connect(target["webSocketDebuggerUrl"], max_message_size=1 << 30)
    tab = _Tab(socket)
    for domain in ("Page", "Network", "Log", "Runtime"):
        await tab.ask(f"{domain}.enable")
    await tab.ask(
        "Emulation.setDeviceMetricsOverride",
        width=width, height=height, deviceScaleFactor=1, mobile=width < 600,
    )  # fmt: skip
    address = page.absolute().as_uri()
    await tab.ask("Page.navigate", url=address)
    await tab.wait_for("Page.loadEventFired")
    if click:
        await tab.ask("Runtime.evaluate", expression=f"document.querySelector({click!r}).click()")
    ask = _ASK.replace("WIDTH", str(width)).replace("LEAST", str(LEAST))
    told = await tab.ask("Runtime.evaluate", expression=ask, awaitPromise=True)
    seen = Seen(**json.loads(told["result"]["value"]))
    size = {"x": 0, "y": 0, "width": width, "height": min(seen.height, 16000), "scale": 1}
    shot = await tab.ask("Page.captureScreenshot", captureBeyondViewport=True, clip=size)
    seen.picture = base64.b64decode(shot["data"])
    for event in tab.events:
        _note(event, seen, address)
    return seen


def _note(event: dict[str, Any], seen: Seen, address: str) -> None:
    """Take from an event what a test wants to know."""
    given = event["params"]
    match event["method"]:
        case "Network.requestWillBeSent":
            url = given["request"]["url"]
            if not url.startswith("data:") and url.split("#")[0] != address:
                seen.requests.append(url)
        case "Log.entryAdded":
            seen.console.append(given["entry"]["text"])
        case "Runtime.consoleAPICalled":
            seen.console.append(str(given["args"]))
        case "Runtime.exceptionThrown":
            seen.console.append(given["exceptionDetails"]["text"])


async def _port(folder: Path) -> int:
    """Where Chromium listens, once it does."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError, ValueError, IndexError):
            return int((folder / "DevToolsActivePort").read_text().splitlines()[0])
        await asyncio.sleep(0.1)
    raise TimeoutError(f"Chromium did not start within {PATIENCE:.0f} s")


class _Tab:
    """Commands to a tab and the events that come from it."""

    def __init__(self, socket: Any) -> None:
        self._socket, self._number = socket, 0
        self.events: list[dict[str, Any]] = []

    async def _read(self) -> dict[str, Any]:
        message = await asyncio.wait_for(self._socket.read_message(), PATIENCE)
        if message is None:
            raise ConnectionError("Chromium has closed the connection")
        return json.loads(message)

    async def ask(self, method: str, **params: Any) -> dict[str, Any]:
        """The result of a command."""
        self._number += 1
        request = {"id": self._number, "method": method, "params": params}
        await self._socket.write_message(json.dumps(request))
        while True:
            message = await self._read()
            if message.get("id") == self._number:
                if "error" in message:
                    raise RuntimeError(f"{method}: {message['error']['message']}")
                return message["result"]
            self.events.append(message)

    async def wait_for(self, method: str) -> None:
        """Until an event has come."""
        while not any(event["method"] == method for event in self.events):
            self.events.append(await self._read())
