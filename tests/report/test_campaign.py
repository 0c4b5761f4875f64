"""The report of a campaign."""

from __future__ import annotations

import json
import shutil

import pytest
import yaml

from roman_dask_l2.batch import campaign
from roman_dask_l2.cli import app
from roman_dask_l2.products.quality import measure
from roman_dask_l2.report import compare as reports
from roman_dask_l2.report import focal_plane as focal
from roman_dask_l2.report.campaign import campaign_report
from roman_dask_l2.simulation.simulate import simulate

SCAS = (1, 10, 18)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A campaign of three detectors that a batch has run; the one of WFI18 has failed."""
    folder = tmp_path_factory.mktemp("campaign")
    (folder / "l1").mkdir()
    for sca in SCAS:
        made = simulate(
            folder / "sim", side=256, seed=sca, detector=f"WFI{sca:02d}", conditions="plain"
        )
        made.l1.rename(folder / "l1" / f"sim_L1_F158_1_{sca}.asdf")
        (folder / "sim" / "cal").rename(folder / f"cal{sca}")
    shutil.copy(made.fitswcs, folder / "wcs.txt")
    (folder / "cal18" / "flat.asdf").unlink()
    template = {
        "FITSWCS": "wcs.txt",
        "CALDIR": {key: f"cal{{sca}}/{key}.asdf" for key in made.caldir},
    }
    exposures = {"glob": "l1/sim_L1_{filter}_{obs:d}_{sca:d}.asdf"}
    settings = {"template": template, "exposures": exposures}
    (folder / "campaign.yaml").write_text(yaml.safe_dump(settings))
    assert app.main(["batch", str(folder / "campaign.yaml"), "--quiet"]) == 4
    return folder


def lines(folder):
    """Those of the manifest that are on attempts."""
    text = (folder / "campaign.manifest.jsonl").read_text()
    return [line for line in map(json.loads, text.splitlines()) if "identity" in line]


def test_batch_writes_the_numbers(folder):
    done = [line for line in lines(folder) if line["status"] == "done"]
    assert len(done) == 2
    for line in done:
        assert line["quality"] == measure(line["output"][0])


def test_report(folder, tmp_path, check_page, plots, capsys):
    file, out = folder / "campaign.yaml", tmp_path / "r.html"
    png = tmp_path / "png"
    with plots() as figures:
        assert app.main(["report", str(file), "-o", str(out), "--png", str(png), "--quiet"]) == 0
    assert capsys.readouterr().out == f"{out}\n"
    page = check_page(out)
    assert page.ids == ["failed", "focal_plane", "spread", "outliers", "exposures"]
    assert len(figures) == 8
    names = {f"{kind}_{q.key}" for kind in ("focal_plane", "exposures") for q in reports.QUANTITIES}
    assert {path.stem for path in png.iterdir()} == names
    assert "flat.asdf: no such file" in page.text
    for line in lines(folder):
        assert line["identity"] in page.text
        if line["status"] == "done":
            assert f"{100 * line['quality']['masked']:.3g}" in page.text


def test_an_interrupted_exposure(folder, tmp_path, check_page):
    case = tmp_path / "stopped"
    shutil.copytree(folder, case)
    done = next(line for line in lines(case) if line["status"] == "done")
    keys = ("attempt", "identity", "started", "host", "pid")
    stopped = {key: done[key] for key in keys} | {"status": "running", "lock": str(case / "no")}
    with (case / "campaign.manifest.jsonl").open("a") as file:
        file.write(json.dumps(stopped) + "\n")
    page = check_page(campaign_report(case / "campaign.yaml"))
    assert "Failed and interrupted" in page.text
    assert page.text.count("run the batch again, it continues where it stopped") == 1


def test_manifest_without_numbers(folder, tmp_path, check_page):
    """Of an older version: they are taken from the files."""
    case = tmp_path / "old"
    shutil.copytree(folder, case)
    old = [{k: v for k, v in line.items() if k != "quality"} for line in lines(case)]
    manifest = case / "campaign.manifest.jsonl"
    manifest.write_text("".join(json.dumps(line) + "\n" for line in old))
    before = reports.read_exposures(folder / "campaign.yaml")
    after = reports.read_exposures(case / "campaign.yaml")
    assert [e.quality for e in after] == [e.quality for e in before]
    assert sum(bool(e.quality) for e in before) == 2
    manifest.unlink()
    page = check_page(campaign_report(case / "campaign.yaml"))
    assert "No exposure is done yet" in page.text


def exposed(identity, sky, name="F158", detector="WFI01"):
    quality = {"detector": detector, "optical_element": name, "sky": sky, "masked": 0.01}
    return reports.Exposed(identity, "done", {}, quality, detector)


def test_outliers():
    """Far from the others through the same filter; a few are no crowd; None is no number."""
    skies = [0.400, 0.401, 0.399, 0.402, 0.398, 0.400, 0.55, None]
    group = [exposed(f"a{i}", sky) for i, sky in enumerate(skies)]
    others = [exposed(f"b{i}", sky, "F184") for i, sky in enumerate([1, 2, 3, 40])]
    reports.mark_outliers([*group, *others])
    assert [e.identity for e in [*group, *others] if e.outliers] == ["a6"]
    # The spread is 0.0015, less than 1 % of the median: that counts instead.
    assert group[6].outliers["sky"] == pytest.approx((0.55 - 0.4) / 0.004)
    assert set(group[6].outliers) == {"sky"}


def test_focal_plane_shows_medians_of_each_detector():
    group = [exposed(f"{i}", sky, detector="WFI07") for i, sky in enumerate([0.1, 0.2, 0.6])]
    group.append(exposed("x", None, detector="WFI18"))
    sky = reports.QUANTITIES[0]
    assert focal.by_detector(sky, group) == {"WFI07": 0.2}
    group[0].outliers["sky"] = 9.0
    figure = focal.focal_plane(sky, group, "Sky")
    texts = [text.get_text() for text in figure.axes[0].texts]
    assert texts[6] == "7\n0.2"
    assert sum("\n" in text for text in texts) == 1
    frames = [patch.get_linewidth() for patch in figure.axes[0].patches]
    assert [i + 1 for i, width in enumerate(frames) if width > 1] == [7]


def test_a_stretch_does_not_make_much_of_little():
    """Detectors that differ by 0.1 % have nearly one colour; one that is far off has its own."""
    values = [0.4000, 0.4002, 0.3999, 0.4004]
    low, high = focal.stretch(values)
    assert (low, high) == pytest.approx((0.3801, 0.4201), abs=1e-3)
    assert focal.stretch([*values, 0.6])[1] == 0.6
    assert focal.stretch([1.0, 1.5, 2.0]) == (0.0, pytest.approx(1.5 + 5 * 1.4826 * 0.5))
    assert focal.stretch([0.4]) == pytest.approx((0.38, 0.42))
    assert focal.stretch([])[0] < focal.stretch([])[1]
    assert focal.stretch([0.0, 0.0])[0] < focal.stretch([0.0, 0.0])[1]


def test_failed_detectors_look_like_no_others(folder, tmp_path):
    """The only exposure of WFI18 has failed; WFI03 waits; WFI02 is not in the campaign."""
    exposures = reports.read_exposures(folder / "campaign.yaml")
    assert [e.detector for e in exposures] == ["WFI01", "WFI10", "WFI18"]
    exposures.append(reports.Exposed("x", "not begun", {}, {}, "WFI03"))
    exposures.append(reports.Exposed("y", "failed", {}, {}, "WFI03"))
    exposures.append(reports.Exposed("z", "failed", {}, {}, "WFI01"))
    assert focal.idle_detectors(exposures) == {"WFI18": "failed", "WFI03": "to do"}
    figure = focal.focal_plane(reports.QUANTITIES[0], exposures, "Sky")
    texts = [text.get_text() for text in figure.axes[0].texts]
    assert (texts[17], texts[2], texts[1]) == ("18\nfailed", "3\nto do", "2")
    hatched = [bool(patch.get_hatch()) for patch in figure.axes[0].patches]
    assert [i + 1 for i, hatch in enumerate(hatched) if hatch] == [18]


def test_detector_of_an_exposure_that_failed(folder, tmp_path):
    """From its placeholders, or from its file, if there is one that can be read."""
    l1 = str(folder / "l1" / "sim_L1_F158_1_10.asdf")
    for values, settings, found in [
        ((("sca", "07"),), {}, "WFI07"),
        ((("detector", "wfi18"),), {}, "WFI18"),
        ((("sca", "19"),), {"IN": l1}, "WFI10"),
        ((("night", "1"),), {"IN": l1}, "WFI10"),
        ((("night", "1"),), {"IN": "none.asdf"}, None),
        ((("night", "1"),), {}, None),
    ]:
        entry = campaign.Entry(values, settings)
        assert reports.detector_of(entry, tmp_path) == found
    entry = campaign.Entry((("night", "1"),), {"IN": "l1/sim_L1_F158_1_1.asdf"})
    assert reports.detector_of(entry, folder) == "WFI01"
    assert reports.detector_of(entry, None) is None


def test_detectors_do_not_overlap():
    places = [*focal.CENTRES, *((-x, y) for x, y in focal.CENTRES)]
    for i, (x, y) in enumerate(places):
        for a, b in places[:i]:
            assert max(abs(x - a), abs(y - b)) > focal.DETECTOR
