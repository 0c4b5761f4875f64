"""The report of one exposure."""

from __future__ import annotations

import re
import shutil
import sys

import asdf
import numpy as np
import pytest
import yaml

from roman_dask_l2.cli import app
from roman_dask_l2.config.model import load_config
from roman_dask_l2.errors import InputError
from roman_dask_l2.products.level2 import calibrate
from roman_dask_l2.products.noise_layers import generate_noise
from roman_dask_l2.report import exposure, replay, write_report
from roman_dask_l2.report.exposure import exposure_report
from roman_dask_l2.report.facts import gather
from roman_dask_l2.report.image_scan import open_image
from roman_dask_l2.report.replay import open_replay
from roman_dask_l2.simulation.simulate import simulate

SECTIONS = [
    "warnings", "rate", "flags", "errors", "sky", "ramps", "refpix", "jumps", "noise", "footprint",
    "timings", "configuration", "provenance",
]  # fmt: skip
PLOTS = {
    "rate", "rate_zoom", "flags", "error_rate", "chi_square", "sky_model", "sky_residual",
    "ramp_normal", "ramp_cosmic_ray", "ramp_saturating", "ramp_hot", "refpix_rows",
    "refpix_channels", "jump_times", "footprint", "stages", "steps",
    *(f"layer{i}_{kind}" for i in range(3) for kind in ("image", "histogram", "spectrum")),
}  # fmt: skip


@pytest.fixture(scope="module")
def report(exposure_with_noise, tmp_path_factory, plots, drawn):
    folder = tmp_path_factory.mktemp("report")
    with plots() as figures, drawn():
        exposure_report(exposure_with_noise.l2, folder / "r.html", png=folder / "png")
    assert set(figures) == PLOTS
    return folder


def test_has_everything(report, check_page):
    page = check_page(report / "r.html")
    assert page.ids == SECTIONS
    assert {path.stem for path in (report / "png").iterdir()} == PLOTS
    assert len(page.images) == len(PLOTS)
    assert (report / "png" / "rate.png").read_bytes().startswith(b"\x89PNG")
    for text in ("In every pixel the flags are those of the file", "JUMP_DET", "SKYORDER", "PbS1",
                 "numpy", "saturation: backup=1", "linearitylegendre.asdf", "calibrated in",
                 "noise layers made in"):  # fmt: skip
        assert text in page.text
    assert "other flags" not in page.text


def test_numbers(report, exposure_with_noise, check_page):
    """Counts in the table of flags are those of the file."""
    text = check_page(report / "r.html").html
    with asdf.open(exposure_with_noise.l2) as file:
        dq, mask = np.asarray(file["roman"]["dq"]), np.asarray(file["mask"])
    for name, n in (
        ("JUMP_DET", np.count_nonzero(dq & 4)),
        ("SATURATED", np.count_nonzero(dq & 2)),
        ("combined mask", np.count_nonzero(mask)),
    ):
        assert f'<td>{name}</td><td class="n">{n}</td>' in text


def test_on_the_command_line(exposure_with_noise, capsys, check_page):
    """By the configuration; beside the image by default."""
    assert app.main(["report", str(exposure_with_noise.config), "--quiet"]) == 0
    out = exposure_with_noise.l2.with_name("l2_report.html")
    assert capsys.readouterr().out == f"{out}\n"
    assert "Noise layer RP" in check_page(out).text


def test_with_a_run(tmp_path, simulated, check_page):
    """On a run, with what it warned of; without sky model and noise layers."""
    simulation = simulated(seed=11)
    config = yaml.safe_load(simulation.config.read_text())
    config = {k: v for k, v in config.items() if k not in ("SKYORDER", "FITSWCS", "IN")}
    config["CALDIR"] = {k: str(v) for k, v in simulation.caldir.items() if k != "ipc4d"}
    paths = {"IN": simulation.l1, "FITSWCS": simulation.fitswcs, "OUT": tmp_path / "out.asdf"}
    config |= {key: str(path) for key, path in paths.items()} | {"MASK": {"JUMP_DET": 25}}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    assert app.main([str(tmp_path / "config.yaml"), "--report", "--quiet"]) == 0
    page = check_page(tmp_path / "out_report.html")
    assert "inter-pixel capacitance is not corrected" in page.text
    assert "No sky was subtracted" in page.text
    assert "The configuration has no NOISE block" in page.text
    # The last column is what was masked, not the default.
    growth = re.findall(r"<td>(JUMP_DET|HOT)</td>.*?(\d+|-)</td></tr>", page.html)
    assert growth == [("JUMP_DET", "25"), ("HOT", "-")]


def test_a_warning_is_given_once(tmp_path, simulated, check_page, capsys):
    """In the log, which repeats it at the end, and on the page: of labels, and of the layers."""
    simulation = simulated(seed=11)
    config = yaml.safe_load(simulation.config.read_text())
    config["CALDIR"] = {k: str(v) for k, v in simulation.caldir.items()}
    config |= {"IN": str(simulation.l1), "FITSWCS": str(simulation.fitswcs), "OUT": "l2.asdf"}
    noise = {"LAYER": ["OP", "OP"], "TEMP": ".", "SEED": 3, "OUT": "noise.asdf"}
    file = tmp_path / "config.yaml"
    file.write_text(yaml.safe_dump(config | {"NOISE": noise}))
    assert app.main(["validate", str(file)]) == 0
    assert capsys.readouterr().err.count("O and P both") == 1
    assert app.main([str(file), "--report"]) == 0
    said, repeated = capsys.readouterr().err.split("on the way:")
    for text in (said, repeated):
        assert text.count("O and P both add") == 1
    page = check_page(tmp_path / "l2_report.html")
    assert page.text.count("O and P both add") == 1
    assert "noise layers made in" in page.text


def test_of_the_other_recipe(tmp_path, simulated, check_page, plots):
    """romanimpreprocess's: without chi-square, through the dark, with its own flags."""
    config = load_config(simulated(seed=11).config)
    noise = {"LAYER": ["RS2", "Pb"], "TEMP": ".", "SEED": 3, "OUT": str(tmp_path / "noise.asdf")}
    config = config.replace(
        GRAPH="romanimpreprocess_1.0", OUT=str(tmp_path / "l2.asdf"), SLICEOUT=True,
        NOISE=noise | {"TEMP": str(tmp_path)},
    )  # fmt: skip
    calibrate(config)
    generate_noise(config)
    with plots() as figures:
        page = check_page(exposure_report(tmp_path / "l2.asdf"))
    assert page.ids == SECTIONS
    assert "In every pixel the flags are those of the file" in page.text
    assert "Noise layer RS2" in page.text
    assert "through_dark=True" in page.text
    assert "Warnings" in page.text
    assert "reduced chi-square of the ramps" not in page.text
    without = {"chi_square", *(name for name in PLOTS if name.startswith("layer2"))}
    spectra = {name for name in PLOTS if name.endswith("_spectrum")}  # 256 pixels are too few
    assert set(figures) == PLOTS - without - spectra


def test_chi_square_is_worth_a_warning_where_it_is_not_expected(tmp_path):
    """A bright background makes it large and is no fault; a bias that is left in is one."""
    for name, sky, known, warned in [
        ("good", 0.4, True, False), ("bright", 5.0, True, False), ("bias", 0.4, False, True),
    ]:  # fmt: skip
        made = simulate(tmp_path / name, side=256, seed=4, sky=sky, conditions="plain")
        config = yaml.safe_load(made.config.read_text())
        if not known:
            del config["CALDIR"]["biascorr"]
            made.config.write_text(yaml.safe_dump(config))
        facts = gather(open_image(calibrate(made.config).out), None)
        assert (facts.chi_square > 1.5) == (name != "good")
        found = [line for line in exposure._warnings(facts) if "reduced chi-square" in line]
        assert len(found) == warned, (name, found)
        assert all("no CALDIR.biascorr was given" in line for line in found)


def test_without_the_exposure(tmp_path, simulated, check_page):
    """What needs the L1 file is replaced by the reason, be it gone or changed."""
    simulation = simulated(seed=11)
    l1, l2 = tmp_path / "l1.asdf", tmp_path / "l2.asdf"
    shutil.copy(simulation.l1, l1)
    config = yaml.safe_load(simulation.config.read_text())
    config["CALDIR"] = {k: str(v) for k, v in simulation.caldir.items()}
    config |= {"IN": str(l1), "FITSWCS": str(simulation.fitswcs), "OUT": str(l2)}
    calibrate(config)
    with asdf.open(simulation.l1, memmap=False, lazy_load=False) as file:
        file["roman"]["data"][0, 0, 0] += 1
        file.write_to(l1)
    with pytest.raises(InputError, match="is not the file that the image was made from"):
        open_replay(open_image(l2))
    l1.unlink()
    page = check_page(exposure_report(l2))
    assert page.ids == SECTIONS
    assert page.text.count("l1.asdf, is not there") == 3
    assert "read noise reference is not available" in page.text


def test_files_found_beside_the_image(exposure_with_noise, tmp_path, monkeypatch):
    """A directory that was moved as a whole, but for the references."""
    folder = tmp_path / "moved"
    folder.mkdir()
    for path in (exposure_with_noise.l2, exposure_with_noise.l2.with_name("l1.asdf")):
        shutil.copy(path, folder)
    gone = str(exposure_with_noise.l2.parent / "l1.asdf")
    exists = replay.Path.exists
    monkeypatch.setattr(replay.Path, "exists", lambda p: str(p) != gone and exists(p))
    found = open_replay(open_image(folder / "l2.asdf"))
    assert found.inputs.layouts["l1"].path == str(folder / "l1.asdf")


def test_bad_input(exposure_with_noise, tmp_path, monkeypatch, capsys):
    l2 = exposure_with_noise.l2
    (tmp_path / "text.yaml").write_text("no: campaign\n")
    (tmp_path / "half.asdf").write_bytes(l2.read_bytes()[:100_000])
    truth = l2.with_name("truth.asdf")
    for arguments, message in [
        ([tmp_path / "none.asdf"], "none.asdf: cannot be read: No such file"),
        ([tmp_path], "cannot be read: Is a directory"),
        ([tmp_path / "text.yaml"], "required key IN is missing"),
        ([tmp_path / "half.asdf"], "half.asdf: truncated"),
        ([truth], "truth.asdf: no roman.data, expected an L2 file of roman-dask-l2"),
        ([l2, "-o", tmp_path / "none" / "r.html"], "none does not exist"),
        ([l2, "-o", tmp_path], "is a directory"),
        ([l2, "--noise", l2], "not a noise file"),
    ]:
        assert app.main(["report", *map(str, arguments), "--quiet"]) == 2
        error = capsys.readouterr().err
        assert message in error
        assert "Traceback" not in error
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    assert app.main(["report", str(l2), "-o", str(tmp_path / "r.html")]) == 2
    assert "pip install 'roman-dask-l2[plots]'" in capsys.readouterr().err
    assert app.main(["run", str(exposure_with_noise.config), "--report"]) == 2
    assert "pip install 'roman-dask-l2[plots]'" in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["half.asdf", "text.yaml"]


@pytest.mark.parametrize("what", ["another exposure", "other steps or options"])
def test_noise_of_something_else(exposure_with_noise, tmp_path, what):
    with asdf.open(exposure_with_noise.noise) as file:
        tree = {key: file[key] for key in ("noise", "statistics", "provenance")}
        if what == "another exposure":
            tree["provenance"]["files"]["IN"]["content"] = "0"
        else:
            tree["provenance"]["recipe"]["steps"].pop()
        asdf.AsdfFile(tree).write_to(tmp_path / "noise.asdf")
    with pytest.raises(InputError, match=f"was made from {what}"):
        write_report(exposure_with_noise.l2, tmp_path / "r.html", noise=tmp_path / "noise.asdf")
    assert not (tmp_path / "r.html").exists()
