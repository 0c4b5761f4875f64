"""What the encryption of a cluster costs: the program that measures it, on a small detector."""

from __future__ import annotations

import json

import pytest
from programs import load

pytestmark = pytest.mark.slow

encryption = load("encryption")


def test_pairs(simulated, tmp_path):
    runs = encryption.pairs(simulated(conditions=(), seed=77).config, tmp_path, 1)
    assert {name: len(found) for name, found in runs.items()} == dict.fromkeys(encryption.WAYS, 1)
    assert all(found[0]["wall"] > 0 and found[0]["cpu"] > 0 for found in runs.values())
    assert (tmp_path / "l2.asdf").exists()
    page = encryption.page({"date": "today", "commit": "", "side": 256, "runs": runs})
    assert page.count("\n| ") == 4
    assert f"{runs['--insecure'][0]['wall']:.2f}" in page


def test_the_page_shows_what_was_measured():
    part = encryption.PAGE.read_text().split("<!-- encryption: begin -->")[1]
    expected = encryption.page(json.loads(encryption.RESULT.read_text()))
    assert part.split("<!-- encryption: end -->")[0].strip() == expected.strip()
