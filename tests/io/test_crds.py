"""Reference files chosen by the real package crds, from a small cache and without a network."""

from __future__ import annotations

import logging
import shutil
import socket
import sys

import asdf
import pytest
import yaml
from crds_cache import CONTEXT, CrdsCache

from roman_dask_l2.batch.fingerprint import find_unfinished
from roman_dask_l2.cli.app import main
from roman_dask_l2.config.model import load_config
from roman_dask_l2.core.reference_types import observatory_name
from roman_dask_l2.errors import InputError
from roman_dask_l2.io import crds as subject
from roman_dask_l2.io.layout import read_layout
from roman_dask_l2.products.job import prepare
from roman_dask_l2.products.level2 import calibrate
from roman_dask_l2.products.noise_layers import generate_noise

RECIPE = """\
steps:
  - dq_init
  - saturation
  - dark_decay
  - ramp_fit_likelihood
  - mask
  - medsky
  - sky
"""
"""Steps that need nothing but what the observatory has."""
KEYS = ("gain", "read", "saturation", "mask", "dark_decay")


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("asked the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.delenv("CRDS_SERVER_URL", raising=False)
    monkeypatch.delenv("CRDS_CONTEXT", raising=False)


@pytest.fixture(scope="module")
def source(simulated):
    return simulated(conditions="plain", dark_decay=True)


@pytest.fixture
def cache(source, tmp_path, monkeypatch):
    """A cache with the simulator's files, which the environment names."""
    files = {observatory_name(key): source.caldir[key] for key in KEYS}
    made = CrdsCache(tmp_path / "cache", files | {"distortion": None})
    monkeypatch.setenv("CRDS_PATH", str(made.root))
    return made


@pytest.fixture
def config(source, tmp_path):
    shutil.copy(source.l1, tmp_path / "l1.asdf")
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    settings = yaml.safe_load(source.config.read_text())
    kept = {k: v for k, v in settings.items() if k in ("RAMP_OPT_PARS", "JUMP_DETECT_PARS")}
    return kept | {
        "IN": str(tmp_path / "l1.asdf"),
        "OUT": str(tmp_path / "l2.asdf"),
        "GRAPH": str(tmp_path / "recipe.yaml"),
        "CALDIR": "crds",
        "FITSWCS": str(source.directory / settings["FITSWCS"]),
    }


def problems(config):
    with pytest.raises(InputError) as caught:
        prepare(config)
    return caught.value.problems


def test_files_of_the_cache_are_used(cache, config, caplog):
    caplog.set_level(logging.INFO)
    job = prepare(config)
    assert job.references == {key: cache.path(observatory_name(key)) for key in KEYS}
    (line,) = [r.getMessage() for r in caplog.records if "CRDS context" in r.getMessage()]
    assert line.startswith(f"CRDS context {CONTEXT}: gain roman_wfi_gain_0001.asdf, ")
    assert "readnoise roman_wfi_readnoise_0001.asdf" in line


def test_the_same_numbers_as_with_named_files(cache, config, source, tmp_path):
    named = config | {
        "CALDIR": {observatory_name(key): str(source.caldir[key]) for key in KEYS},
        "OUT": str(tmp_path / "named.asdf"),
    }
    chosen, given = calibrate(config), calibrate(named)
    with asdf.open(chosen.out) as a, asdf.open(given.out) as b:
        for name in ("data", "err", "dq"):
            assert a["roman"][name].tobytes() == b["roman"][name].tobytes()
        names = a["roman"]["meta"]["ref_file"]
        assert names["crds"]["context"] == CONTEXT
        assert names["gain"] == "crds://roman_wfi_gain_0001.asdf"
        assert names["darkdecaysignal"] == "crds://roman_wfi_darkdecaysignal_0001.asdf"
        assert b["roman"]["meta"]["ref_file"]["gain"] == "gain.asdf"
        assert a["processinfo"]["config"]["CALDIR"] == "crds"
        made = a["processinfo"]["provenance"]
        assert made["crds"]["context"] == CONTEXT
        assert made["crds"]["files"]["read"] == "roman_wfi_readnoise_0001.asdf"
        assert f"CRDS context {CONTEXT}" in a["processinfo"]["log"]
        # What counts is what is in the files, not who chose them.
        assert made["fingerprint"] == b["processinfo"]["provenance"]["fingerprint"]


def test_a_batch_knows_what_is_finished(cache, config):
    loaded = load_config(config)
    assert find_unfinished(loaded)[0] == {"l2": "not there"}
    calibrate(config)
    assert find_unfinished(loaded)[0] == {}
    with asdf.open(cache.path("gain"), memmap=False, lazy_load=False) as file:
        file["roman"]["data"] = file["roman"]["data"] * 2
        file.write_to(cache.root / "new.asdf")
    shutil.move(cache.root / "new.asdf", cache.path("gain"))
    assert find_unfinished(loaded)[0] == {"l2": "gain changed"}
    cache.path("gain").unlink()
    assert "is not in the cache" in find_unfinished(loaded)[0]["l2"]


def test_noise_layers(cache, config, tmp_path):
    (tmp_path / "scratch").mkdir()
    noise = {"LAYER": ["P"], "TEMP": str(tmp_path / "scratch" / "t"), "SEED": 3}
    config |= {"NOISE": noise | {"OUT": str(tmp_path / "n.asdf")}, "SLICEOUT": True}
    calibrate(config)
    made = generate_noise(config)
    assert read_layout(made.out).value("provenance", "crds", "context") == CONTEXT


def test_the_context_of_the_environment(cache, config, monkeypatch):
    cache.in_use("roman_0009.pmap")
    assert problems(config) == [
        f"CALDIR: crds: the context roman_0009.pmap is not in the cache {cache.root}"
    ]
    monkeypatch.setenv("CRDS_CONTEXT", CONTEXT)
    assert prepare(config).crds.context == CONTEXT


def test_a_file_that_rules_say_there_is_not(cache, config):
    cache.rules("darkdecaysignal", {"2020-01-01 00:00:00": "N/A"})
    job = prepare(config)
    assert "dark_decay" not in job.references
    assert job.crds.absent == ("dark_decay",)
    assert [bound.name for bound in job.steps if bound.name == "dark_decay"] == []
    subject._contexts.keep(lambda key: False)
    cache.rules("saturation", {"2020-01-01 00:00:00": "N/A"})
    assert problems(config) == [
        f"CALDIR: crds: {CONTEXT} says that there is no saturation, step saturation needs it"
    ]


def test_no_match(cache, config):
    cache.rules("gain", {"2020-01-01 00:00:00": "roman_wfi_gain_0001.asdf"}, detector="WFI09")
    (line,) = problems(config)
    assert line.startswith(f"CALDIR: crds: {CONTEXT} has no gain for {config['IN']} (")
    subject._contexts.keep(lambda key: False)
    cache.rules("gain", {"2100-01-01 00:00:00": "roman_wfi_gain_0001.asdf"})
    assert problems(config)[0].endswith("(No match found.)")


def test_a_file_that_is_not_in_the_cache(cache, config):
    cache.path("mask").unlink()
    assert problems(config) == [
        f"CALDIR: crds: roman_wfi_mask_0001.asdf, the mask chosen by {CONTEXT}, is not in the "
        f"cache {cache.root}"
    ]


def test_damaged_rules(cache, config):
    path = cache.root / "mappings" / "roman" / CONTEXT
    path.write_text(path.read_text().replace("of a test", "of another"))
    (line,) = problems(config)
    assert line.startswith(f"CALDIR: crds: the context {CONTEXT} cannot be used (")
    assert "\n" not in line


def test_the_survey_s_types_are_not_in_crds(cache, config, tmp_path):
    (tmp_path / "recipe.yaml").write_text(RECIPE.replace("dark_decay", "linearity"))
    assert problems(config) == [
        "CALDIR: crds: CRDS has no files of the type linearitylegendre, step linearity needs one"
    ]


def test_without_the_package(cache, config, monkeypatch):
    monkeypatch.setitem(sys.modules, "crds", None)
    assert problems(config) == [
        "CALDIR: crds needs the package crds: pip install 'roman-dask-l2[crds]'"
    ]


def test_without_a_cache(config, monkeypatch, tmp_path, capsys):
    monkeypatch.delenv("CRDS_PATH", raising=False)
    (line,) = problems(config)
    assert line.startswith("CALDIR: crds: the environment variable CRDS_PATH is not set")
    monkeypatch.setenv("CRDS_PATH", str(tmp_path / "nowhere"))
    assert problems(config) == [
        f"CALDIR: crds: CRDS_PATH is {tmp_path / 'nowhere'}, which is no folder"
    ]
    (tmp_path / "empty").mkdir()
    monkeypatch.setenv("CRDS_PATH", str(tmp_path / "empty"))
    assert "does not say which context is in use" in problems(config)[0]
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(config))
    assert main([str(path), "--quiet"]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert not [*tmp_path.glob("l2*"), *tmp_path.glob(".*.part*")]


# -- the command ---------------------------------------------------------------------------------


def test_the_command_prints_a_block(cache, config, capsys):
    cache.rules("darkdecaysignal", {"2020-01-01 00:00:00": "N/A"})
    assert main(["references", config["IN"], "--graph", config["GRAPH"], "--quiet"]) == 0
    text = capsys.readouterr().out
    assert f"CRDS context {CONTEXT}" in text
    assert "# darkdecaysignal: N/A" in text
    caldir = yaml.safe_load(text)["CALDIR"]
    wanted = {observatory_name(key) for key in KEYS if key != "dark_decay"}
    assert {key: cache.path(key) for key in wanted}.items() <= {
        key: type(cache.root)(path) for key, path in caldir.items()
    }.items()
    job = prepare(config | {"CALDIR": caldir})
    assert job.crds is None
    assert set(job.references) >= {"gain", "read", "saturation", "mask"}


def test_the_command_says_what_is_wrong(cache, config, capsys):
    cache.path("gain").unlink()
    assert main(["references", config["IN"], "--graph", config["GRAPH"], "--quiet"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert "roman_wfi_gain_0001.asdf" in err
    assert main(["references", "/nowhere/l1.asdf", "--quiet"]) == 2
    assert "/nowhere/l1.asdf: no such file" in capsys.readouterr().err


# -- files that are not given ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "who"),
    [
        ("gain", "the Level 2 file"),
        ("saturation", "step saturation"),
        ("read", "step ramp_fit_likelihood"),
    ],
)
def test_a_missing_file_names_its_key_and_the_step(key, who, source, config):
    caldir = {k: str(source.caldir[k]) for k in KEYS if k != key}
    assert problems(config | {"CALDIR": caldir}) == [
        f"configuration: required key CALDIR.{key} is missing, {who} needs it"
    ]
