"""Reports in a real browser, at the width of a desktop and of a phone: ``make report-test``.

Nothing on the console, nothing asked of the network, every picture decoded, nothing wider than the
window. ``ROMAN_SCREENSHOTS=DIR`` keeps what was seen.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
import yaml

from roman_dask_l2.cli import app
from roman_dask_l2.products.level2 import calibrate
from roman_dask_l2.products.noise_layers import generate_noise
from roman_dask_l2.report import write_report
from roman_dask_l2.simulation.simulate import simulate

pytestmark = pytest.mark.browser

WIDTHS = {"desktop": 1280, "phone": 390}


@pytest.fixture(scope="module")
def browser():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(Path(__file__).parent))
        import browser
    assert browser.find(), "no Chromium is installed; make report-test installs it"
    return browser


@pytest.fixture(scope="module")
def exposure(tmp_path_factory):
    """The report of an exposure with noise layers."""
    folder = tmp_path_factory.mktemp("exposure")
    made = simulate(folder, side=512, seed=5)
    (folder / "temp").mkdir()
    config = yaml.safe_load(made.config.read_text())
    noise = {"LAYER": ["RS2", "PbS1"], "TEMP": "temp", "SEED": 3, "OUT": "l2_noise.asdf"}
    made.config.write_text(yaml.safe_dump(config | {"NOISE": noise, "SLICEOUT": True}))
    calibrate(made.config)
    generate_noise(made.config)
    return write_report(made.config)


@pytest.fixture(scope="module")
def campaign(tmp_path_factory):
    """The report of a campaign with those of its exposures; one of them fails."""
    folder = tmp_path_factory.mktemp("campaign")
    (folder / "l1").mkdir()
    for sca in (1, 8, 17):
        made = simulate(folder / "sim", side=256, seed=sca, detector=f"WFI{sca:02d}")
        made.l1.rename(folder / "l1" / f"sim_L1_F158_1_{sca}.asdf")
        (folder / "sim" / "cal").rename(folder / f"cal{sca}")
    shutil.copy(made.fitswcs, folder / "wcs.txt")
    (folder / "cal17" / "flat.asdf").unlink()
    template = {
        "FITSWCS": "wcs.txt",
        "CALDIR": {key: f"cal{{sca}}/{key}.asdf" for key in made.caldir},
        "SKYORDER": 1,
        "NOISE": {"LAYER": ["RS1"], "TEMP": "temp"},
    }
    (folder / "temp").mkdir()
    exposures = {"glob": "l1/sim_L1_{filter}_{obs:d}_{sca:d}.asdf"}
    file = folder / "campaign.yaml"
    file.write_text(yaml.safe_dump({"template": template, "exposures": exposures, "SEED": 3}))
    assert app.main(["batch", str(file), "--quiet", "--report"]) == 4
    # All simulated exposures begin at the same time.
    manifest = folder / "campaign.manifest.jsonl"
    text = manifest.read_text()
    assert text.count("T00:00:00+00:00") == 2
    manifest.write_text(text.replace("T00:00:00+00:00", "T07:08:09+00:00", 1))
    return write_report(file)


@pytest.mark.parametrize("width", WIDTHS.values(), ids=WIDTHS)
@pytest.mark.parametrize(("kind", "pictures", "charts"), [("exposure", 23, 0), ("campaign", 4, 10)])
def test_page(browser, request, kind, pictures, charts, width):
    page = request.getfixturevalue(kind)
    seen = browser.look(page, width)
    if folder := os.environ.get("ROMAN_SCREENSHOTS"):
        Path(folder, f"{kind}_{width}.png").write_bytes(seen.picture)
    assert seen.console == []
    assert seen.requests == []
    assert seen.pictures == pictures
    assert seen.broken == 0
    assert seen.charts == charts
    assert seen.dots == 2 * charts
    assert seen.small == []
    assert seen.outside == []
    assert seen.loose == []
    assert seen.links == []
    assert seen.wide == []
    assert seen.overflow <= 0
    # File names and errors may be long; what people compare must be seen at once.
    assert set(seen.cut) <= {"input", "exposure"}
    assert seen.height > 1500
    assert seen.picture.startswith(b"\x89PNG")


@pytest.mark.parametrize("width", WIDTHS.values(), ids=WIDTHS)
def test_a_picture_is_enlarged(browser, exposure, width):
    """The page gets higher, not wider."""
    before = browser.look(exposure, width)
    after = browser.look(exposure, width, click=".zoom input")
    assert after.height > before.height + 50
    assert after.overflow <= 0


def test_what_is_wrong_is_seen(browser, tmp_path):
    """A page with every fault that the tests above would pass over if the browser did not tell."""
    page = tmp_path / "bad.html"
    page.write_text(
        '<!DOCTYPE html><meta name="viewport" content="width=device-width"><body>'
        '<div style="width: 3000px">wide</div><a href="#nowhere">x</a>'
        '<div class="wide" style="overflow: auto; width: 50px">'
        "<table><th>long_long_head</table></div>"
        '<img src="data:image/png;base64,AAAA"><img src="http://127.0.0.1:9/x.png">'
        '<svg width="100" viewBox="0 0 200 50"><text y="20" font-size="12">tiny</text>'
        '<text x="150" y="20" font-size="40">large</text><g><title>t</title></g></svg>'
        "<script>console.log('said'); throw new Error('thrown')</script>"
    )
    seen = browser.look(page, 390)
    assert any("said" in line for line in seen.console)
    assert any("Uncaught" in line for line in seen.console)
    assert "http://127.0.0.1:9/x.png" in seen.requests
    assert seen.broken == 2
    assert seen.links == ["#nowhere"]
    assert seen.cut == seen.loose == ["long_long_head"]
    assert (seen.charts, seen.dots) == (1, 1)
    assert seen.small == ["tiny"]
    assert seen.outside == ["large"]
    assert seen.overflow > 0
