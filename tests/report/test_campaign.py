"""The report of a campaign."""

from __future__ import annotations

import json
import shutil
from types import SimpleNamespace
from xml.etree import ElementTree

import pytest
import yaml

from roman_dask_l2.batch import campaign
from roman_dask_l2.cli import app
from roman_dask_l2.io.layout import lookup
from roman_dask_l2.products.quality import measure, start_of
from roman_dask_l2.report import campaign as pages
from roman_dask_l2.report import chart as charts
from roman_dask_l2.report import compare as reports
from roman_dask_l2.report import digits
from roman_dask_l2.report import focal_plane as focal
from roman_dask_l2.report.campaign import campaign_report
from roman_dask_l2.simulation.simulate import simulate

SCAS = (1, 10, 18)
CHARTS = [*(q.key for q in reports.QUANTITIES), "layer_RS1", "layer_PbS1"]


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
        "SKYORDER": 1,
        "NOISE": {"LAYER": ["RS1", "PbS1"], "TEMP": "temp"},
    }
    (folder / "temp").mkdir()
    exposures = {"glob": "l1/sim_L1_{filter}_{obs:d}_{sca:d}.asdf"}
    settings = {"template": template, "exposures": exposures, "SEED": 4}
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
        assert line["quality"] == measure(*line["output"])
        assert line["quality"]["start"] == "2027-06-01T00:00:00+00:00"
        assert list(line["quality"]["layers"]) == ["RS1", "PbS1"]


def test_report(folder, tmp_path, check_page, plots, capsys, drawn):
    file, out = folder / "campaign.yaml", tmp_path / "r.html"
    png = tmp_path / "png"
    with plots() as figures, drawn():
        assert app.main(["report", str(file), "-o", str(out), "--png", str(png), "--quiet"]) == 0
    assert capsys.readouterr().out == f"{out}\n"
    page = check_page(out)
    assert page.ids == ["failed", "focal_plane", "spread", "outliers", "exposures"]
    assert len(figures) == 4
    names = {f"focal_plane_{q.key}.png" for q in reports.QUANTITIES}
    names |= {f"exposures_{name}.svg" for name in CHARTS}
    assert {path.name for path in png.iterdir()} == names
    for name in CHARTS:
        ElementTree.parse(png / f"exposures_{name}.svg")
    assert "at least 5 robust standard deviations" in page.text
    for chart in page.charts:
        assert len(chart.dots) == 2
        assert chart.texts[-1] != ""
    assert "flat.asdf: no such file" in page.text
    for line in lines(folder):
        assert line["identity"] in page.text
        if line["status"] == "done":
            assert f"{100 * line['quality']['masked']:.3f}" in page.text
            assert f"{line['identity']}: {line['quality']['sky']:.4f} DN/s" in page.charts[0].dots
            assert f"{line['quality']['layers']['RS1']:.5f}" in page.text


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
    for line in old:  # of a version that knew neither start nor layers
        if line["status"] == "done":
            known = next(e.quality for e in before if e.identity == line["identity"])
            line["quality"] = {k: v for k, v in known.items() if k not in ("start", "layers")}
    manifest.write_text("".join(json.dumps(line) + "\n" for line in old))
    after = reports.read_exposures(case / "campaign.yaml")
    assert [e.quality for e in after] == [e.quality for e in before]
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
    assert texts[6] == "7\n0.2000"
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


@pytest.fixture
def crowd(tmp_path):
    """A campaign of 40 exposures through two filters, of which only the manifest is there: one is
    far off, three have reports, five layers."""
    lines, listed = [], []
    for i in range(40):
        name, sca = ("F158", "F184")[i % 2], i % 18 + 1
        listed.append({"filter": name, "obs": i, "sca": sca})
        quality = {
            "detector": f"WFI{sca:02d}",
            "optical_element": name,
            "sky": (0.4 if i % 2 == 0 else 1.1) + 1e-4 * (i % 5) + 0.2 * (i == 7),
            "masked": 0.01,
            "jumps": 0.0,
            "chi_square": None,
            "start": f"2027-06-01T00:{i:02d}:00+00:00" if i else None,
            "layers": {
                f"RS{k}": 0.047 + 1e-4 * (i % 3) + 0.1 * (i == 9) * (k == 4) for k in range(5)
            },
        }
        identity = f"filter={name},obs={i},sca={sca}"
        lines.append(
            {"identity": identity, "attempt": "a", "status": "done", "output": [],
             "quality": quality, "seconds": 9 + i}
        )  # fmt: skip
        if i in (3, 7, 8):
            (tmp_path / f"sim_L2_{name}_{i}_{sca}.asdf").touch()
            (tmp_path / f"sim_L2_{name}_{i}_{sca}_report.html").touch()
    template = {"IN": "{filter}_{obs}_{sca}.asdf", "CALDIR": {}, "FITSWCS": "w"}
    (tmp_path / "campaign.yaml").write_text(
        yaml.safe_dump({"template": template, "exposures": listed})
    )
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (tmp_path / "campaign.manifest.jsonl").write_text(text)
    return tmp_path


@pytest.mark.filterwarnings("error")
def test_charts_say_which_exposure_a_dot_is(crowd, check_page):
    page = check_page(campaign_report(crowd / "campaign.yaml"), links=True)
    names = [chart.name for chart in page.charts]
    # Sky, masks, jumps and three layers, against exposure and time; no chi-square is known.
    assert len(names) == 12
    assert sum("start" in name for name in names) == 6
    of_sky, in_time = page.charts[:2]
    assert (len(of_sky.dots), len(in_time.dots)) == (40, 39)
    assert "filter=F184,obs=7,sca=8: 1.3002 DN/s, outlier: +18.2 robust standard deviations" in (
        of_sky.dots
    )
    assert of_sky.links == [f"sim_L2_{name}_report.html" for name in
                            ("F158_8_9", "F184_3_4", "F184_7_8")]  # fmt: skip
    assert "outlier" in of_sky.texts
    assert "outlier" not in page.charts[2].texts
    assert "start (UTC), 2027-06-01" in in_time.texts
    assert {"00:10", "00:20"} <= set(in_time.texts)
    assert "1 exposures do not say when they began" in page.text
    # Those layers that have no chart are named, and their outliers found.
    assert "further noise layers too: RS3, RS4." in page.text
    assert "sigma of layer RS4" in page.text
    assert "sigma of layer RS3" not in page.text
    # In two tables and the charts of six quantities against two axes.
    assert page.links.count("sim_L2_F158_8_9_report.html") == 13


def test_links_lead_to_what_is_there(crowd, tmp_path_factory, check_page):
    """From a page in another folder too, and after a move of both."""
    (crowd / "sim_L2_F184_3_4_report.html").unlink()
    (crowd / "pages").mkdir()
    page = check_page(
        campaign_report(crowd / "campaign.yaml", crowd / "pages" / "p.html"), links=True
    )
    assert set(page.links) == {f"../sim_L2_{name}_report.html" for name in ("F158_8_9", "F184_7_8")}
    elsewhere = tmp_path_factory.mktemp("elsewhere") / "a b#?c"
    shutil.move(crowd, elsewhere)
    page = check_page(elsewhere / "pages" / "p.html", links=True)
    page = check_page(campaign_report(elsewhere / "campaign.yaml", crowd.parent / "q.html"), True)
    assert len(set(page.links)) == 2


def test_scales_of_charts():
    """At least 5 % to either side of the median through each filter, and all values."""
    sky = reports.QUANTITIES[0]
    group = [exposed(f"a{i}", 0.4 + 1e-5 * i) for i in range(5)]
    low, high = pages.limits(sky, group)
    assert low < 0.38
    assert 0.42 < high < 0.43
    low, high = pages.limits(sky, [*group, *(exposed(f"b{i}", 1.0, "F184") for i in range(5))])
    assert low < 0.38
    assert high > 1.05
    assert pages.limits(sky, [exposed("c", 0.0)]) == (0.0, 1.0)
    assert pages.limits(sky, [exposed("d", 0.0), exposed("e", 9.0)])[0] == 0.0


def test_many_dots_are_drawn_together(monkeypatch):
    """Of more dots than a phone can hold only outliers say what they are."""
    dots = [charts.Dot(i, i % 7, f"e{i}: {i}", "F158", i == 5, "x.html") for i in range(30)]
    x, y = digits.counting_axis(30, "exposure"), digits.number_axis(0, 6, "sky")
    whole = charts.chart(dots, x, y, "t")
    assert whole.count("<title>") == 30
    monkeypatch.setattr(charts, "MOST_DOTS", 29)
    svg = charts.chart(dots, x, y, "t")
    ElementTree.fromstring(svg)
    assert svg.count("<title>") == svg.count("<a ") == 1
    assert "e5: 5" in svg
    assert svg.count("h0") == 29
    assert charts.without_links(svg) == svg.replace('<a href="x.html" tabindex="-1">', "").replace(
        "</a>", ""
    )


def test_filters_look_different():
    looks = {
        (charts.COLOURS[i % len(charts.COLOURS)], charts.SHAPES[i % len(charts.SHAPES)])
        for i in range(12)
    }
    assert len(looks) == 12
    assert len(set(charts.SHAPES)) == len(charts.SHAPES) >= 8


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("2027-06-01T00:00:00.000", "2027-06-01T00:00:00+00:00"),
        ("2027-06-01T02:30:00+02:00", "2027-06-01T00:30:00+00:00"),
        ("2027-06-01 00:00:00.123456789", "2027-06-01T00:00:00.123456+00:00"),
        ("in June", None),
        ("", None),
    ],
)
def test_start_of_an_exposure(text, found):
    tree = {"roman": {"meta": {"exposure": {"start_time": text}}}}
    layout = SimpleNamespace(value=lambda *key, default: lookup(tree, key))
    assert start_of(layout) == found
    known = reports.Exposed("x", "done", {}, {"start": found})
    assert (known.start is None) == (found is None)
    assert reports.Exposed("x", "done", {}, {"start": text}).start is None or found
