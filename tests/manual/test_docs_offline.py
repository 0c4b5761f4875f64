"""The check that the built manual loads nothing from a network: ``docs/offline.py``."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = Path(__file__).resolve().parents[2] / "docs" / "offline.py"

LOADS = {
    "a.html": [
        '<script defer src="https://x.test/f"></script>',
        '<script src="//x.test/f"></script>',
        '<link rel="stylesheet" href="https://x.test/f">',
        '<link rel="preload" as="font" href="http://x.test/f">',
        '<img src="HTTPS://x.test/f">',
        '<img src="a.png" srcset="a.png 1x, https://x.test/f 2x">',
        '<iframe src="https://x.test/f"></iframe>',
        '<svg><image href="https://x.test/f"/></svg>',
        '<style>p { background: url(https://x.test/f) }</style>',
        '<p style="background: url(\'https://x.test/f\')">',
        '<script>import("https://x.test/f")</script>',
        '<script type="module">import x from "https://x.test/f"</script>',
    ],
    "_static/a.css": [
        '@import "https://x.test/f";',
        "@import url(//x.test/f);",
        '@font-face { src: url("https://x.test/f") format("woff2") }',
    ],
    "_static/a.js": ['s.src = "https://x.test/f"', "fetch('https://x.test/f')"],
    "_images/a.svg": ['<svg><image xlink:href="https://x.test/f"/></svg>'],
}  # fmt: skip

LOADS_NOT = {
    "a.html": """<link rel="canonical" href="https://x.test/">
<link rel="stylesheet" href="_static/a.css?v=1"><script src="_static/a.js"></script>
<a href="https://x.test/">a page</a> <img src="data:image/png;base64,AA==">
<svg xmlns="http://www.w3.org/2000/svg"></svg> <p>Not url(https://x.test/f)</p>
<script>const home = "https://x.test/"</script>""",
    "_static/a.css": """a { background: url("data:image/svg+xml,<svg xmlns='http://www.w3.org'>") }
@font-face { src: url(a.ttf) } /* https://x.test/ */""",
    "_static/a.js": "// see https://x.test/\nconst a = document.location",
}


def checked(folder):
    return subprocess.run([sys.executable, PROGRAM, folder], capture_output=True, text=True)


def written(folder, name, text):
    file = folder / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)


@pytest.mark.parametrize(("name", "text"), [(n, t) for n, texts in LOADS.items() for t in texts])
def test_what_is_loaded_from_elsewhere_is_found(tmp_path, name, text):
    written(tmp_path, "whole.html", "<p>whole</p>")
    written(tmp_path, name, text)
    said = checked(tmp_path)
    assert said.returncode == 1, text
    assert said.stdout.count("\n") == 1
    assert f"{tmp_path / name}: loads " in said.stdout
    assert "//x.test/f" in said.stdout


def test_whole_pages_pass(tmp_path):
    for name, text in LOADS_NOT.items():
        written(tmp_path, name, text)
    said = checked(tmp_path)
    assert (said.returncode, said.stdout, said.stderr) == (0, "", "")


def test_no_pages_are_no_manual(tmp_path):
    assert checked(tmp_path).returncode == 1
