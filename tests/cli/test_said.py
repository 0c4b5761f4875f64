"""What commands say: once, only what matters, and which kind of file they were given."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import pytest
import yaml

from roman_dask_l2 import calibrate, generate_noise
from roman_dask_l2.cli.app import main
from roman_dask_l2.simulation.simulate import simulate

pytestmark = pytest.mark.usefixtures("blank_pictures")

ROOT = Path(__file__).resolve().parents[2]
NOISE = {"LAYER": ["RS1", "Rz3"], "TEMP": ".", "SEED": 4, "OUT": "l2_noise.asdf"}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A calibrated exposure with noise layers, and what the functions returned."""
    folder = tmp_path_factory.mktemp("said")
    config = simulate(folder, side=256, config={"NOISE": NOISE}).config
    return folder, calibrate(config), generate_noise(config)


@pytest.fixture
def files(made, tmp_path, monkeypatch):
    """A file of each kind, in the working directory."""
    shutil.copy(ROOT / "graphs/l1_to_l2.yaml", tmp_path / "recipe.yaml")
    settings = yaml.safe_load((made[0] / "config.yaml").read_text())
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(settings))
    campaign = {"template": {"CALDIR": settings["CALDIR"]}, "exposures": {"glob": "{obs}.asdf"}}
    (tmp_path / "campaign.yaml").write_text(yaml.safe_dump(campaign))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("run recipe.yaml", "recipe.yaml: is a recipe, expected a configuration; a configuration "
         "names it by GRAPH, a command by --graph recipe.yaml"),
        ("validate recipe.yaml", "recipe.yaml: is a recipe, expected a configuration; a "
         "configuration names it by GRAPH, a command by --graph recipe.yaml"),
        ("run campaign.yaml", "campaign.yaml: is a campaign, expected a configuration; it is run "
         "by: roman-dask-l2 batch campaign.yaml"),
        ("graph campaign.yaml", "campaign.yaml: is a campaign, expected a configuration; it is run "
         "by: roman-dask-l2 batch campaign.yaml"),
        ("batch config.yaml", "config.yaml: is a configuration, expected a campaign; it is run "
         "by: roman-dask-l2 config.yaml"),
        ("status recipe.yaml", "recipe.yaml: is a recipe, expected a campaign; a configuration "
         "names it by GRAPH, a command by --graph recipe.yaml"),
        ("batch campaign.yaml --dry-run", "campaign.yaml: exposures.glob has no {filter}, which "
         "the template uses (OUT: default name); it has obs"),
    ],
)  # fmt: skip
def test_a_file_of_another_kind(files, capsys, command, said):
    (files / "7.asdf").touch()
    assert main(command.split()) == 2
    assert capsys.readouterr().err == f"roman-dask-l2: error: {said}\n"


def test_a_recipe_is_drawn_by_its_file(files):
    assert main(["graph", "recipe.yaml", "-o", "a.svg"]) == 0
    assert main(["graph", "--graph", "recipe.yaml", "-o", "b.svg"]) == 0
    assert (files / "a.svg").read_text() == (files / "b.svg").read_text()


def test_quiet_is_quiet(made, files, capsys):
    for command in (
        ["graph", "recipe.yaml", "-o", "a.svg"],
        ["validate", str(made[0] / "config.yaml")],
        ["simulate", "new", "--side", "256", "--conditions", "plain"],
    ):
        assert main([*command, "--quiet"]) == 0
        assert capsys.readouterr() == ("", ""), command


def test_a_report_says_its_path_once(made, tmp_path, capsys):
    target = tmp_path / "report.html"
    assert main(["report", str(made[0] / "l2.asdf"), "-o", str(target)]) == 0
    said = capsys.readouterr()
    assert said.out == f"{target}\n"
    assert str(target) not in said.err


def test_a_store_that_is_kept_on_request_is_no_warning(made, tmp_path, capsys):
    config = str(made[0] / "config.yaml")
    assert main([config, "--noise-only", "--keep-temp", "--quiet"]) == 0
    assert capsys.readouterr().err == ""
    assert main([config, "--noise-only", "--keep-temp"]) == 0
    said = capsys.readouterr().err
    assert "intermediate results are kept in " in said
    (plain,) = (line for line in said.splitlines() if "layer RS1" in line and "median" in line)
    (clipped,) = (line for line in said.splitlines() if "layer Rz3" in line and "median" in line)
    assert "clipped" not in plain
    assert "% clipped" in clipped
    for store in made[0].glob("*.zarr"):
        shutil.rmtree(store)


def test_the_log_has_no_words_of_dask(made, capsys):
    assert main([str(made[0] / "config.yaml")]) == 0
    said = capsys.readouterr().err
    assert " tiles" in said
    assert "task" not in said
    assert "copy" not in said


def test_results_are_plain_numbers(made):
    """In the repr that Python shows, too."""

    def plain(value):
        if isinstance(value, dict):
            return all(map(plain, value.values()))
        if isinstance(value, list):
            return all(map(plain, value))
        return type(value) in (int, float, bool, str, type(None)) or isinstance(value, Path)

    for result in made[1:]:
        for field in dataclasses.fields(result):
            assert plain(getattr(result, field.name)), field.name
        assert "np." not in repr(result)
