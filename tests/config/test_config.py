"""The configuration: what loads, what is refused, and in which words."""

from __future__ import annotations

import copy
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import yaml
from hypothesis import assume, given
from hypothesis import strategies as st
from pydantic import ValidationError

from roman_dask_l2.config.messages import SIMULATION_KEYS
from roman_dask_l2.config.model import Caldir, Config, blocks, load_config
from roman_dask_l2.config.schema import config_schema
from roman_dask_l2.core import dq
from roman_dask_l2.errors import InputError
from roman_dask_l2.products.job import prepare
from roman_dask_l2.steps.registry import STEPS, find_step

USUAL = ("dark", "gain", "linearitylegendre", "read", "saturation", "flat")
CALDIR = {key: f"/cal/{key}.asdf" for key in (*USUAL, "ipc4d", "mask")}
BASIC = {"IN": "sim1.asdf", "OUT": "sim2.asdf", "CALDIR": CALDIR}
NOISE = {"LAYER": ["RP", "RS2"], "TEMP": "/scratch/t", "SEED": 1, "OUT": "noise.asdf"}

# As romanimpreprocess's users have it, with other folders.
SAMPLE = """\
---
# Input file
IN: 'sim1.asdf'
OUT: 'sim2P.asdf'
FITSWCS: 'sim1_asdf_wcshead.txt'
CALDIR:
  linearitylegendre: '/cal/roman_wfi_linearitylegendre_DUMMY20250521_SCA10.asdf'
  gain: '/cal/roman_wfi_gain_DUMMY20250521_SCA10.asdf'
  dark: '/cal/roman_wfi_dark_DUMMY20250521_SCA10.asdf'
  read: '/cal/roman_wfi_read_DUMMY20250521_SCA10.asdf'
  ipc4d: '/cal/roman_wfi_ipc4d_DUMMY20250521_SCA10.asdf'
  flat: '/cal/roman_wfi_pflat_DUMMY20250521_SCA10.asdf'
  biascorr: '/cal/roman_wfi_biascorr_DUMMY20250521_SCA10.asdf'
  mask: '/cal/roman_wfi_mask_DUMMY20250521_SCA10.asdf'
  saturation: '/cal/roman_wfi_saturation_DUMMY20250521_SCA10.asdf'
SKYORDER: 2
RAMP_OPT_PARS:
  slope: 0.4
  gain: 1.8
  sigma_read: 7.
JUMP_DETECT_PARS:
  SthreshA: 5.5
  SthreshB: 4.5
  IthreshA: 0.6
  IthreshB: 600.
FITSOUT: True
NOISE:
  LAYER: ['RP', 'RS2']
  TEMP: /scratch/MyNoise.asdf
  SEED: 15000
  OUT: 'sim2P_noise.asdf'
...
"""


def basic(**changes):
    return copy.deepcopy(BASIC) | changes


def problems(source, **options) -> list[str]:
    with pytest.raises(InputError) as caught:
        load_config(source, **options)
    assert all("\n" not in line for line in caught.value.problems)
    return caught.value.problems


def problem(source, **options) -> str:
    (line,) = problems(source, **options)
    return line


@pytest.fixture
def file(tmp_path):
    """Writes text to a configuration file and gives its path."""

    def write(text: str | bytes) -> Path:
        path = tmp_path / "config.yaml"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    return write


# What loads


def test_sample_from_file(file, tmp_path):
    path = file(SAMPLE)
    config = load_config(path)
    assert config.IN == tmp_path / "sim1.asdf"
    assert config.OUT == tmp_path / "sim2P.asdf"
    assert config.FITSWCS == tmp_path / "sim1_asdf_wcshead.txt"
    assert config.CALDIR.flat == Path("/cal/roman_wfi_pflat_DUMMY20250521_SCA10.asdf")
    assert config.SKYORDER == 2
    assert config.RAMP_OPT_PARS.sigma_read == 7.0
    assert config.JUMP_DETECT_PARS.IthreshB == 600.0
    assert config.FITSOUT is True
    assert config.NOISE is not None
    assert config.NOISE.LAYER == ["RP", "RS2"]
    assert config.NOISE.TEMP == Path("/scratch/MyNoise.asdf")
    assert config.NOISE.OUT == tmp_path / "sim2P_noise.asdf"
    assert config.source == path
    assert config.raw == yaml.safe_load(SAMPLE)


def test_sample_as_scripts_use_it(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    config = yaml.safe_load(SAMPLE)
    loaded = load_config(config | {"SLICEOUT": True})
    assert loaded.SLICEOUT is True
    assert loaded.OUT == tmp_path / "sim2P.asdf"
    assert loaded.source is None
    assert loaded.raw == config | {"SLICEOUT": True}


def test_defaults():
    config = load_config(basic())
    assert (config.FITSWCS, config.GWCS, config.FITSWCS_ORIGIN) == (None, None, 0)
    assert config.RAMP_OPT_PARS.model_dump() == {"slope": 0.4, "gain": 1.8, "sigma_read": 6.5}
    assert config.JUMP_DETECT_PARS.model_dump() == {
        "SthreshA": 5.5,
        "SthreshB": 4.5,
        "IthreshA": 1.0,
        "IthreshB": 1000.0,
    }
    assert config.JUMP_KW.model_dump() == {
        "expand_large_events": False,
        "min_jump_area": 6,
        "min_sat_area": 1,
        "expand_factor": 1.9,
        "sat_required_snowball": True,
        "min_sat_radius_extend": 0.5,
        "sat_expand": 2,
        "edge_size": 0,
        "maximum_cores": None,
    }  # romancal 1.1.0's
    assert (config.romancal_ramp_fit, config.REJECTION_THRESHOLD) == (False, 4.5)
    assert (config.FITSOUT, config.SLICEOUT, config.EXCLUDE_FIRST) == (False, False, True)
    assert config.JUMPOUT is False
    assert (config.correct_wfi18_transient, config.wfi18_mask_rows) == (False, False)
    assert (config.SKYORDER, config.SATURATION_BACKUP, config.NOISE_PRECISION) == (None, 1, 32)
    assert config.NOISE is None
    assert config.GRAPH == "l1_to_l2"
    assert config.MASK == dq.MASK_GROWTH


@pytest.mark.parametrize(
    ("step", "parameter", "key", "value"),
    [
        ("ramp_fit", "threshold_a", "JUMP_DETECT_PARS.SthreshA", 7.25),
        ("ramp_fit", "slope", "RAMP_OPT_PARS.slope", 0.125),
        ("saturation", "backup", "SATURATION_BACKUP", 3),
        ("ramp_fit_likelihood", "rejection_threshold", "REJECTION_THRESHOLD", 5.5),
        ("large_events", "sat_expand", "JUMP_KW.sat_expand", 3),
    ],
)
def test_defaults_are_those_of_the_steps(step, parameter, key, value, monkeypatch):
    """One place: who changes a step's default sees configuration and schema follow."""
    field = find_step(step, "").params.model_fields[parameter]
    monkeypatch.setattr(field, "default", value)
    found, schema = load_config(BASIC), config_schema()
    block = schema
    *outer, last = key.split(".")
    for name in outer:
        found = getattr(found, name)
        block = schema["$defs"][type(found).__name__]
    assert getattr(found, last) == value
    assert block["properties"][last]["default"] == value


def test_every_key_that_sets_a_parameter_has_its_default():
    config = load_config(BASIC)
    for name in STEPS:
        bound = find_step(name, "")
        for parameter, key in bound.settings.items():
            found = config
            for part in key.split("."):
                found = getattr(found, part)
            assert bound.params(**{parameter: found}) == bound.params(), key


def test_partial_blocks_keep_the_other_defaults():
    config = load_config(basic(RAMP_OPT_PARS={"slope": 1}, JUMP_DETECT_PARS={"IthreshA": 2}))
    assert config.RAMP_OPT_PARS.model_dump() == {"slope": 1.0, "gain": 1.8, "sigma_read": 6.5}
    assert config.JUMP_DETECT_PARS.IthreshA == 2.0
    assert config.JUMP_DETECT_PARS.IthreshB == 1000.0


def test_mask_table_replaces_the_default():
    assert load_config(basic(MASK={"HOT": 25})).MASK == {"HOT": 25}
    assert load_config(basic(MASK={})).MASK == {}


def test_default_table_cannot_be_changed_through_a_configuration():
    load_config(basic()).MASK["HOT"] = 1
    assert dq.MASK_GROWTH["HOT"] == 9
    assert load_config(basic()).MASK["HOT"] == 9


@pytest.mark.parametrize(
    ("text", "value"), [("7.", 7.0), ("7", 7.0), ("1e1", 10.0), ("'6.5'", 6.5), ("1.5e+0", 1.5)]
)
def test_numbers_as_people_write_them(file, text, value):
    config = load_config(file(f"{yaml.safe_dump(BASIC)}RAMP_OPT_PARS: {{sigma_read: {text}}}\n"))
    assert config.RAMP_OPT_PARS.sigma_read == value


@pytest.mark.parametrize(
    ("text", "value"), [("True", True), ("yes", True), ("'True'", True), ("off", False)]
)
def test_booleans_as_people_write_them(file, text, value):
    assert load_config(file(f"{yaml.safe_dump(BASIC)}FITSOUT: {text}\n")).FITSOUT is value


def test_whole_numbers_as_floats():
    assert load_config(basic(SKYORDER=2.0)).SKYORDER == 2


def test_numpy_numbers_and_paths_from_python(tmp_path):
    config = load_config(
        basic(IN=tmp_path / "a.asdf", SKYORDER=np.int64(1), RAMP_OPT_PARS={"gain": np.float32(2)})
    )
    assert (config.SKYORDER, config.RAMP_OPT_PARS.gain) == (1, 2.0)
    assert config.IN == tmp_path / "a.asdf"
    assert yaml.safe_load(yaml.safe_dump(config.raw)) == config.raw


def test_a_key_with_nothing_after_it_is_absent(file):
    config = load_config(file(f"{yaml.safe_dump(BASIC)}SKYORDER:\nRAMP_OPT_PARS:\nNOISE:\nMASK:\n"))
    assert config.SKYORDER is None
    assert config.NOISE is None
    assert config.RAMP_OPT_PARS.slope == 0.4
    assert config.MASK == dq.MASK_GROWTH


def test_anchors_and_merges(file):
    text = f"""
IN: a.asdf
OUT: b.asdf
CALDIR: {{{", ".join(f"{k}: {v}" for k, v in CALDIR.items())}}}
RAMP_OPT_PARS: &pars {{slope: 0.5, gain: 2.}}
"""
    assert load_config(file(text)).RAMP_OPT_PARS.slope == 0.5
    merged = text.replace("{slope: 0.5, gain: 2.}", "{<<: {slope: 0.7, gain: 2.}, slope: 0.5}")
    assert load_config(file(merged)).RAMP_OPT_PARS.slope == 0.5


@pytest.mark.parametrize(
    ("given", "kind", "expected"),
    [
        ("romanimpreprocess_1.0", str, "romanimpreprocess_1.0"),
        ("mine.yaml", Path, "/base/mine.yaml"),
        ("recipes/mine.yml", Path, "/base/recipes/mine.yml"),
        ("/abs/recipe", Path, "/abs/recipe"),
        ("./mine", Path, "/base/mine"),
        (Path("/abs/mine.yaml"), Path, "/abs/mine.yaml"),
    ],
)
def test_graph_is_a_name_or_a_file(given, kind, expected):
    graph = load_config(basic(GRAPH=given), base=Path("/base")).GRAPH
    assert isinstance(graph, kind)
    assert str(graph) == expected


def test_references():
    config = load_config(basic(CALDIR=CALDIR | {"biascorr": "/cal/biascorr.asdf"}))
    assert set(config.references()) == {*CALDIR, "biascorr"}
    assert config.references()["gain"] == Path("/cal/gain.asdf")


@pytest.mark.parametrize("key", ["ipc4d", "mask"])
def test_optional_with_a_warning(key, simulated):
    config = load_config(simulated().config)
    assert not any("no CALDIR" in note for note in prepare(config).notes)
    less = config.replace(CALDIR={k: v for k, v in config.raw["CALDIR"].items() if k != key})
    assert key not in less.references()
    assert [f"no CALDIR.{key}" in note for note in prepare(less).notes] == [True]


def test_no_warning_of_what_no_step_reads(simulated):
    config = load_config(simulated(references="observatory").config)
    assert not any("ipc4d" in note for note in prepare(config).notes)


def test_a_config_is_returned_as_it_is():
    config = load_config(basic())
    assert load_config(config) is config


def test_the_users_dict_is_neither_changed_nor_kept():
    mine = basic(NOISE=copy.deepcopy(NOISE))
    before = copy.deepcopy(mine)
    config = load_config(mine)
    assert mine == before
    mine["NOISE"]["LAYER"].append("X")
    assert config.raw["NOISE"]["LAYER"] == ["RP", "RS2"]


def test_frozen():
    config = load_config(basic())
    with pytest.raises(ValidationError):
        config.SKYORDER = 3
    with pytest.raises(ValidationError):
        config.CALDIR.dark = Path("/x")


def test_survives_the_trip_between_processes(file):
    config = load_config(file(SAMPLE))
    back = pickle.loads(pickle.dumps(config))
    assert back == config
    assert (back.raw, back.source) == (config.raw, config.source)


def test_replace(file, tmp_path):
    config = load_config(file(SAMPLE))
    new = config.replace(SLICEOUT=True, GRAPH="romanimpreprocess_1.0")
    assert (new.SLICEOUT, new.GRAPH, new.OUT) == (True, "romanimpreprocess_1.0", config.OUT)
    assert new.raw == config.raw | {"SLICEOUT": True, "GRAPH": "romanimpreprocess_1.0"}
    assert new.source == config.source
    with pytest.raises(InputError, match="SKYORDER is -1"):
        config.replace(SKYORDER=-1)
    assert config.SLICEOUT is False


def test_made_without_load_config():
    config = Config(IN="/a.asdf", OUT="/b.asdf", CALDIR=CALDIR)
    assert config.source is None
    assert config.raw["IN"] == "/a.asdf"
    assert yaml.safe_dump(config.raw)
    assert config.replace(SKYORDER=1).SKYORDER == 1
    with pytest.raises(ValidationError):
        Config(IN="/a.asdf", OUT="/a.asdf", CALDIR=CALDIR)


# Paths


def test_tilde_and_variables(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("CAL", "/refs")
    monkeypatch.setenv("SCA", "10")
    paths = CALDIR | {"dark": "$CAL/dark.asdf", "gain": "${CAL}/gain_${SCA}.asdf", "flat": "$CAL"}
    config = load_config(basic(IN="~/l1.asdf", CALDIR=paths, NOISE=NOISE | {"TEMP": "~/t"}))
    assert config.IN == tmp_path / "l1.asdf"
    assert config.CALDIR.dark == Path("/refs/dark.asdf")
    assert config.CALDIR.gain == Path("/refs/gain_10.asdf")
    assert config.CALDIR.flat == Path("/refs")
    assert config.NOISE.TEMP == tmp_path / "t"
    assert config.raw["IN"] == "~/l1.asdf"


@pytest.mark.parametrize("text", ["$NOT_THERE/x.asdf", "${NOT_THERE}/x.asdf", "/a/${NOT_THERE}"])
def test_undefined_variable(monkeypatch, text):
    monkeypatch.delenv("NOT_THERE", raising=False)
    line = problem(basic(CALDIR=CALDIR | {"gain": text}))
    assert line == (
        f"configuration: CALDIR.gain: environment variable NOT_THERE in {text!r} is not defined"
    )


def test_dollar_without_a_name_is_part_of_the_name():
    assert load_config(basic(IN="/data/a$.asdf")).IN == Path("/data/a$.asdf")


def test_unknown_home():
    assert "no home directory" in problem(basic(IN="~no-such-user-here/l1.asdf"))


def test_relative_to_the_file_not_to_the_working_directory(file, monkeypatch, tmp_path):
    path = file(SAMPLE)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    assert load_config(path).IN == tmp_path / "sim1.asdf"
    assert load_config("../config.yaml").IN.resolve() == (tmp_path / "sim1.asdf").resolve()
    assert load_config(path, base=elsewhere).IN == elsewhere / "sim1.asdf"
    assert load_config(basic(), base=Path("/b")).IN == Path("/b/sim1.asdf")
    assert load_config(basic()).IN == elsewhere / "sim1.asdf"


@pytest.mark.parametrize("value", ["", "  ", "a\0b", 5, ["a"], {"a": 1}, True])
def test_not_a_path(value):
    assert "expected a path" in problem(basic(IN=value))


@pytest.mark.parametrize("spelling", ["sim1.asdf", "./sim1.asdf", "x/../sim1.asdf", "link.asdf"])
def test_out_equal_to_in(tmp_path, spelling):
    (tmp_path / "x").mkdir()
    (tmp_path / "sim1.asdf").touch()
    (tmp_path / "link.asdf").symlink_to("sim1.asdf")
    line = problem(basic(OUT=spelling), base=tmp_path)
    assert line.startswith("configuration: OUT and IN are the same file")


def test_out_equal_to_in_through_a_linked_folder_before_the_file_exists(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "alias").symlink_to("real")
    line = problem(basic(IN="real/a.asdf", OUT="alias/a.asdf"), base=tmp_path)
    assert "OUT and IN are the same file" in line


def test_out_hard_linked_to_in(tmp_path):
    (tmp_path / "sim1.asdf").touch()
    os.link(tmp_path / "sim1.asdf", tmp_path / "sim2.asdf")
    assert "OUT and IN are the same file" in problem(basic(), base=tmp_path)


@pytest.mark.parametrize(
    ("out", "other"),
    [
        ("sim1.asdf", "IN"),
        ("sim2.asdf", "OUT"),
        ("/cal/gain.asdf", "CALDIR.gain"),
        ("/cal/mask.asdf", "CALDIR.mask"),
        ("w.asdf", "GWCS"),
    ],
)
def test_noise_out_is_another_file(out, other):
    lines = problems(basic(GWCS="w.asdf", NOISE=NOISE | {"OUT": out}))
    assert len(lines) == 1
    assert {"NOISE.OUT", other} < set(lines[0].split())


def test_temp_and_out_are_not_inputs():
    assert "NOISE.TEMP and CALDIR.dark are the same file" in problem(
        basic(NOISE=NOISE | {"TEMP": "/cal/dark.asdf"})
    )
    assert "OUT and CALDIR.dark are the same file" in problem(basic(OUT="/cal/dark.asdf"))
    assert "OUT and GWCS are the same file" in problem(basic(OUT="w.asdf", GWCS="w.asdf"))


def test_out_is_not_the_configuration_file(tmp_path):
    path = tmp_path / "odd.asdf"
    path.write_text(yaml.safe_dump(basic(OUT="odd.asdf")))
    assert "OUT and the configuration file are the same file" in problem(path)


@pytest.mark.parametrize("out", ["sim2.fits", "sim2", "sim2.asdf.gz", "dir/"])
def test_out_ends_in_asdf(out):
    assert problem(basic(OUT=out)) == (
        f"configuration: OUT is {out!r}, expected a file name that ends in .asdf"
    )
    assert "NOISE.OUT" in problem(basic(NOISE=NOISE | {"OUT": out}))


def test_one_wcs_at_most():
    assert problem(basic(FITSWCS="a.txt", GWCS="b.asdf")) == (
        "configuration: FITSWCS and GWCS are both given, expected at most one of them"
    )


# Keys


@pytest.mark.parametrize("key", ["IN", "OUT", "CALDIR"])
def test_missing_key(key):
    config = basic()
    del config[key]
    assert problem(config) == f"configuration: required key {key} is missing"


@pytest.mark.parametrize("key", USUAL)
def test_which_references_are_needed_is_for_the_recipe_to_say(key):
    config = load_config(basic(CALDIR={k: v for k, v in CALDIR.items() if k != key}))
    assert key not in config.references()


def test_two_names_for_one_file():
    caldir = {"readnoise": "/cal/r.asdf", "darkdecaysignal": "/cal/d.asdf", "flat": "/cal/f.asdf"}
    config = load_config(basic(CALDIR=caldir))
    expected = {"read": "/cal/r.asdf", "dark_decay": "/cal/d.asdf", "flat": "/cal/f.asdf"}
    assert {key: str(path) for key, path in config.references().items()} == expected
    assert config.raw["CALDIR"] == caldir
    assert config.replace(SKYORDER=1).references() == config.references()


@pytest.mark.parametrize(
    ("key", "other"), [("read", "readnoise"), ("dark_decay", "darkdecaysignal")]
)
def test_both_names_are_one_too_many(key, other):
    assert problem(basic(CALDIR=CALDIR | {key: "/cal/a.asdf", other: "/cal/b.asdf"})) == (
        f"configuration: CALDIR.{key} and CALDIR.{other} are both given, expected one of these two "
        "names for one file"
    )
    one = CALDIR | {key: "N/A", other: "/cal/b.asdf"}
    assert load_config(basic(CALDIR=one)).references()[key] == Path("/cal/b.asdf")


@pytest.mark.parametrize("text", ["N/A", "n/a", " N/A "])
@pytest.mark.parametrize("key", ["flat", "mask", "readnoise"])
def test_a_reference_that_does_not_exist(key, text):
    caldir = {k: v for k, v in CALDIR.items() if k != "read"}
    config = load_config(basic(CALDIR=caldir | {key: text}))
    assert {"flat": "flat", "mask": "mask", "readnoise": "read"}[key] not in config.references()


def test_messages_have_the_name_that_was_given():
    assert problem(basic(CALDIR={"readnoise": 3})) == (
        "configuration: CALDIR.readnoise is 3, expected a path"
    )
    assert problem(basic(CALDIR={"readnoise": "sim2.asdf"})).startswith(
        "configuration: OUT and CALDIR.readnoise are the same file"
    )


def test_the_word_crds(caplog):
    config = load_config(basic(CALDIR="crds"))
    assert config.crds
    assert config.references() == {}
    assert config.raw["CALDIR"] == "crds"
    assert config.replace(SKYORDER=1).crds
    assert pickle.loads(pickle.dumps(config)).crds
    assert not caplog.records
    assert not load_config(BASIC).crds


@pytest.mark.parametrize("key", ["IN", "CALDIR"])
def test_required_key_with_nothing_after_it(key):
    assert problem(basic(**{key: None})).startswith(f"configuration: {key} is empty, expected")


@pytest.mark.parametrize("key", NOISE)
def test_missing_noise_key(key):
    config = basic(NOISE={k: v for k, v in NOISE.items() if k != key})
    assert problem(config) == f"configuration: required key NOISE.{key} is missing"


@pytest.mark.parametrize(
    ("block", "key", "meant"),
    [
        ("", "SKYODER", "SKYORDER"),
        ("", "skyorder", "SKYORDER"),
        ("", "FITS_WCS", "FITSWCS"),
        ("", "dark_decay", "CALDIR.dark_decay"),
        ("", "gain", "CALDIR.gain"),
        ("", "LAYER", "NOISE.LAYER"),
        ("", "sigmaread", "RAMP_OPT_PARS.sigma_read"),
        ("CALDIR", "satturation", "CALDIR.saturation"),
        ("CALDIR", "ipc", "CALDIR.ipc4d"),
        ("CALDIR", "linearitylegendr", "CALDIR.linearitylegendre"),
        ("CALDIR", "SKYORDER", "SKYORDER"),
        ("RAMP_OPT_PARS", "sigma", "RAMP_OPT_PARS.sigma_read"),
        ("JUMP_DETECT_PARS", "SThreshA", "JUMP_DETECT_PARS.SthreshA"),
        ("NOISE", "LAYERS", "NOISE.LAYER"),
        ("JUMP_KW", "min_jump_aera", "JUMP_KW.min_jump_area"),
        ("", "REJECTION_TRESHOLD", "REJECTION_THRESHOLD"),
        ("", "romancal_rampfit", "romancal_ramp_fit"),
        ("", "expand_large_events", "JUMP_KW.expand_large_events"),
    ],
)
def test_did_you_mean(block, key, meant):
    start = {"CALDIR": CALDIR, "NOISE": NOISE}.get(block, {})
    config = basic(**({block: start | {key: 1}} if block else {key: 1}))
    dotted = f"{block}.{key}" if block else key
    assert problem(config) == f"configuration: unknown key {dotted}, did you mean {meant!r}?"


def test_misspelt_required_key_is_said_once():
    caldir = {k: v for k, v in CALDIR.items() if k != "saturation"} | {"satturation": "/cal/s.asdf"}
    assert problem(basic(CALDIR=caldir)) == (
        "configuration: unknown key CALDIR.satturation, did you mean 'CALDIR.saturation'?"
    )


def test_unknown_key_with_nothing_near():
    assert problem(basic(qqq=1)).startswith("configuration: unknown key qqq; known are IN, OUT,")
    assert problem(basic(RAMP_OPT_PARS={"qqq": 1})) == (
        "configuration: unknown key RAMP_OPT_PARS.qqq; "
        "known in RAMP_OPT_PARS are slope, gain, sigma_read"
    )


@pytest.mark.parametrize("key", sorted(SIMULATION_KEYS))
def test_key_of_the_simulation_half(key):
    assert problem(basic(**{key: 1})).startswith(
        f"configuration: key {key} is known to romanimpreprocess's sim_to_isim "
        "but not used by roman-dask-l2"
    )


def test_simulation_key_hides_no_missing_key():
    config = {k: v for k, v in basic(READS=[0, 1]).items() if k != "IN"}
    assert len(problems(config)) == 2
    assert problem(basic(SEED=3)).endswith("; the seed of the noise is NOISE.SEED")


ALL_KEYS = [(block, key) for block, model in blocks().items() for key in model.model_fields]


@given(st.sampled_from(ALL_KEYS), st.data())
def test_near_misses_find_the_key(where, data):
    """One letter dropped, doubled or swapped with its neighbour, or another case: the key that
    was meant is named."""
    block, key = where
    assume(len(key) >= 5)
    i = data.draw(st.integers(0, len(key) - 2))
    wrong = data.draw(
        st.sampled_from(
            [
                key[:i] + key[i + 1 :],
                key[:i] + key[i] + key[i:],
                key[:i] + key[i + 1] + key[i] + key[i + 2 :],
                key.swapcase(),
            ]
        )
    )
    names = {name for _, name in ALL_KEYS}
    assume(wrong not in names and wrong not in SIMULATION_KEYS)
    # Another key that differs in nothing but case is as near: "in" is IN, "mask" is CALDIR's.
    assume(not {wrong.casefold()} & {name.casefold() for name in names - {key}})
    config = basic()
    inside = config if not block else dict(config.get(block) or (NOISE if block == "NOISE" else {}))
    inside.pop(key, None)
    inside[wrong] = 1
    if block:
        config[block] = inside
    prefix = f"{block}." if block else ""
    # The four thresholds differ in one letter: which of them was meant cannot be known.
    likely = blocks()[block].model_fields if block == "JUMP_DETECT_PARS" else [key]
    assert {
        f"configuration: unknown key {prefix}{wrong}, did you mean '{prefix}{name}'?"
        for name in likely
    } & set(problems(config))


@given(
    st.recursive(
        st.none()
        | st.booleans()
        | st.integers(-3, 40)
        | st.floats()
        | st.text(st.characters(codec="utf-8"), max_size=8)
        | st.sampled_from(["~", "$X", "${", "a.asdf", "RP"]),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from([key for _, key in ALL_KEYS])
                | st.text(max_size=5)
                | st.integers(0, 2),
                inner,
                max_size=6,
            )
        ),
        max_leaves=12,
    )
)
def test_nothing_but_input_errors(value):
    config = value if isinstance(value, dict) else {}
    for source in (config, basic(**{"CALDIR": value}), basic(MASK=value, NOISE=value)):
        said = []
        try:
            load_config(source)
        except InputError as err:
            said = err.problems
        assert all(line.startswith("configuration: ") for line in said)


# Values


ORDERS = "expected a whole number from 0 to 7, the greatest order that 8 x 8 cells can carry"


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"SKYORDER": "two"}, "SKYORDER is 'two', expected a whole number"),
        ({"SKYORDER": 1.5}, "SKYORDER is 1.5, expected a whole number"),
        ({"SKYORDER": -1}, f"SKYORDER is -1, {ORDERS}"),
        ({"SKYORDER": False}, "SKYORDER is False, expected a number"),
        ({"SKYORDER": 8}, f"SKYORDER is 8, {ORDERS}"),
        ({"SKYORDER": 10**30}, f"SKYORDER is {10**30}, {ORDERS}"),
        ({"SKYORDER": 1e300}, "SKYORDER is 1e+300, expected a whole number"),
        ({"SATURATION_BACKUP": -1}, "SATURATION_BACKUP is -1, expected a whole number from 0 up"),
        ({"FITSOUT": "maybe"}, "FITSOUT is 'maybe', expected true or false"),
        ({"EXCLUDE_FIRST": [1]}, "EXCLUDE_FIRST is [1], expected true or false"),
        ({"FITSWCS_ORIGIN": 2}, "FITSWCS_ORIGIN is 2, expected 0 or 1"),
        ({"NOISE_PRECISION": 64}, "NOISE_PRECISION is 64, expected 16 or 32"),
        ({"NOISE_PRECISION": "16"}, "NOISE_PRECISION is '16', expected 16 or 32"),
        ({"CALDIR": "/cal"}, "CALDIR is '/cal', expected a mapping of keys to values or crds"),
        ({"RAMP_OPT_PARS": [1]}, "RAMP_OPT_PARS is [1], expected a mapping of keys to values"),
        (
            {"RAMP_OPT_PARS": {"slope": 0}},
            "RAMP_OPT_PARS.slope is 0, expected a number larger than 0",
        ),
        ({"RAMP_OPT_PARS": {"gain": "x"}}, "RAMP_OPT_PARS.gain is 'x', expected a number"),
        ({"RAMP_OPT_PARS": {"gain": True}}, "RAMP_OPT_PARS.gain is True, expected a number"),
        (
            {"RAMP_OPT_PARS": {"gain": float("nan")}},
            "RAMP_OPT_PARS.gain is nan, expected a finite number",
        ),
        (
            {"JUMP_DETECT_PARS": {"IthreshA": 2000}},
            "JUMP_DETECT_PARS: IthreshA (2000) must be smaller than IthreshB (1000)",
        ),
        ({"NOISE": NOISE | {"LAYER": "RP"}}, "NOISE.LAYER is 'RP', expected a list"),
        ({"NOISE": NOISE | {"LAYER": []}}, "NOISE.LAYER is [], expected at least 1 entry"),
        ({"NOISE": NOISE | {"LAYER": ["RP", 3]}}, "NOISE.LAYER[1] is 3, expected text"),
        ({"NOISE": NOISE | {"SEED": -5}}, "NOISE.SEED is -5, expected a whole number from 0 up"),
        ({"GRAPH": 3}, "GRAPH is 3, expected the name of a recipe or a file"),
        ({"GRAPH": ""}, "GRAPH is '', expected the name of a recipe or a file"),
        ({"MASK": [1]}, "MASK is [1], expected a mapping of keys to values"),
        ({"MASK": {"HOT": 3}}, "MASK.HOT is 3, expected one of 1, 5, 9, 25"),
        ({"MASK": {"HOT": True}}, "MASK.HOT is True, expected a number"),
        (
            {"MASK": {"JUMPDET": 5}},
            "MASK.JUMPDET: unknown data-quality flag, did you mean 'JUMP_DET'?",
        ),
        ({"MASK": {"qq": 5}}, "MASK.qq: unknown data-quality flag"),
    ],
)
def test_wrong_value(changes, line):
    assert problem(basic(**changes)) == f"configuration: {line}"


def test_a_long_value_is_cut():
    assert len(problem(basic(SKYORDER=["x" * 500]))) < 150


def test_key_that_is_not_text(file):
    # YAML 1.1 reads NO as false.
    assert "write it in quotes" in problem(file(f"{yaml.safe_dump(BASIC)}NO: 1\n"))


def test_everything_at_once():
    lines = problems(
        {
            "OUT": "sim1.asdf",
            "IN": "./sim1.asdf",
            "CALDIR": CALDIR | {"dark": 3},
            "SKYODER": 1,
            "READS": [0, 1],
            "RAMP_OPT_PARS": {"slope": "x", "gain": -1},
            "FITSWCS": "$NOT_THERE/x",
            "GWCS": "g.asdf",
            "MASK": {"HOTT": 9},
        }
    )
    for part in (
        "OUT and IN are the same",
        "CALDIR.dark is 3",
        "SKYODER",
        "READS",
        "RAMP_OPT_PARS.slope",
        "RAMP_OPT_PARS.gain",
        "NOT_THERE",
        "MASK.HOTT",
    ):
        assert sum(part in line for line in lines) == 1, part
    assert len(lines) == 8


def test_conflicts_are_said_together_with_other_problems():
    lines = problems(basic(OUT="sim1.asdf", FITSWCS="a", GWCS="b", SKYORDER="x"))
    assert len(lines) == 3


# Files


def test_messages_name_the_file(file, monkeypatch, tmp_path):
    path = file(SAMPLE.replace("SKYORDER", "SKYODER"))
    assert problem(path).startswith(f"{path}: unknown key SKYODER")
    monkeypatch.chdir(tmp_path)
    assert problem("config.yaml").startswith("config.yaml: unknown key SKYODER")


def test_no_such_file(tmp_path):
    assert "No such file" in problem(tmp_path / "none.yaml")
    assert str(tmp_path) in problem(tmp_path)  # a folder


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("", "the file is empty"),
        ("# only this\n", "the file is empty"),
        ("---\n...\n", "the file is empty"),
        ("- IN\n- OUT\n", "expected a mapping of keys to values, found a list"),
        ("hello\n", "expected a mapping of keys to values, found 'hello'"),
        ("IN: [a\nOUT: b\n", "not valid YAML: line 2"),
        ("IN: a\n\tOUT: b\n", "not valid YAML: line 2"),
        ("IN: 'a\n", "not valid YAML"),
        ("IN: a\n---\nIN: b\n", "not valid YAML"),
        ("IN: !!python/object:os.system x\n", "not valid YAML"),
        ("IN: 2026-13-45\n", "not valid YAML"),
        ("IN: *nobody\n", "not valid YAML"),
        ("IN: &a [*a]\n", "not valid YAML"),
        ("[" * 5000, "not valid YAML"),
        (b"IN: \xff\xfe\n", "not valid YAML"),
        (b"\x00\x01\x02", "not valid YAML"),
    ],
)
def test_bad_yaml(file, text, part):
    line = problem(file(text))
    assert part in line
    assert "config.yaml" in line


def test_keys_that_stand_twice(file):
    text = SAMPLE.replace("FITSOUT: True", "FITSOUT: True\nSKYORDER: 3").replace(
        "  gain: 1.8", "  gain: 1.8\n  slope: 0.5"
    )
    lines = problems(file(text))
    assert len(lines) == 2
    assert "key SKYORDER stands twice, in lines 16 and 28" in lines[1] + lines[0]
    assert any("key slope stands twice" in line for line in lines)


def test_a_key_that_stands_twice_in_one_line(file):
    text = f"{yaml.safe_dump(BASIC)}RAMP_OPT_PARS: {{slope: 1, gain: 2, slope: 3}}\n"
    assert "key slope stands twice" in problem(file(text))


# The schema, from which the documentation is made


def test_every_key_is_described():
    for model in blocks().values():
        assert model.__doc__
        for key, field in model.model_fields.items():
            assert field.description, key
            assert field.description.endswith("."), key


def test_schema():
    schema = Config.model_json_schema()
    assert schema["additionalProperties"] is False
    assert schema["required"] == ["IN", "OUT", "CALDIR"]
    assert "required" not in schema["$defs"]["Caldir"]
    assert {"const": "crds"} in schema["properties"]["CALDIR"]["anyOf"]
    assert {"read", "readnoise"} < set(schema["$defs"]["Caldir"]["properties"])
    assert schema["properties"]["NOISE_PRECISION"]["enum"] == [16, 32]
    assert schema["properties"]["MASK"]["additionalProperties"]["enum"] == [1, 5, 9, 25]
    assert schema["properties"]["MASK"]["propertyNames"]["enum"] == list(dq.PIXEL)
    assert schema["properties"]["SATURATION_BACKUP"]["minimum"] == 0
    slope = schema["$defs"]["RampOptPars"]["properties"]["slope"]
    assert (slope["exclusiveMinimum"], slope["default"]) == (0, 0.4)
    assert "\n" not in schema["properties"]["MASK"]["description"]


def test_caldir_keys():
    more = {"linearity", "inverselinearity", "integralnonlinearity", "refpix", "photom"}
    more |= {"ipc4d", "mask", "biascorr", "dark_decay", "distortion"}
    assert set(Caldir.model_fields) == {*USUAL, *more}
