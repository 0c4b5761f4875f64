"""The JSON Schemas know the same as the models."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import yaml
from jsonschema import Draft202012Validator

from roman_dask_l2.batch.schema import campaign_schema
from roman_dask_l2.cli import app
from roman_dask_l2.config.model import Caldir, blocks
from roman_dask_l2.config.schema import config_schema
from roman_dask_l2.core.reference_types import OTHER_NAMES

ROOT = Path(__file__).parents[2]
CALDIR = {
    k: f"{k}.asdf" for k in ("dark", "gain", "linearitylegendre", "read", "saturation", "flat")
}
LEAST = {"IN": "l1.asdf", "OUT": "l2.asdf", "CALDIR": CALDIR}


@pytest.fixture(scope="module")
def config():
    Draft202012Validator.check_schema(config_schema())
    return Draft202012Validator(config_schema())


@pytest.fixture(scope="module")
def campaign():
    Draft202012Validator.check_schema(campaign_schema())
    return Draft202012Validator(campaign_schema())


def documents(page, first):
    """YAML blocks of a page that begin with a word."""
    found = re.findall(r"```yaml\n(.*?)```", (ROOT / page).read_text(), re.DOTALL)
    return [yaml.safe_load(text) for text in found if re.search(rf"^{first}:", text, re.MULTILINE)]


def test_the_readme(config):
    (example,) = documents("README.md", "IN")
    config.validate(example)
    (noise,) = documents("README.md", "NOISE")
    config.validate(example | noise)


def test_what_the_simulator_writes(config, simulated):
    config.validate(yaml.safe_load(simulated().config.read_text()))


@pytest.mark.parametrize(
    ("change", "place"),
    [
        ({"SKYORDER": 2, "NOISE_PRECISION": 16, "GRAPH": "mine.yaml"}, None),
        ({"SKYORDER": None, "FITSWCS": None, "NOISE": None}, None),
        ({"MASK": {"HOT": 9}}, None),
        ({"SKYORDERS": 2}, []),
        ({"SKYORDER": -1}, ["SKYORDER"]),
        ({"NOISE_PRECISION": 64}, ["NOISE_PRECISION"]),
        ({"MASK": {"HOT": 4}}, ["MASK"]),
        ({"CALDIR": {"dark": "d.asdf", "readnoise": "r.asdf", "flat": "N/A"}}, None),
        ({"CALDIR": "crds"}, None),
        ({"CALDIR": "cdrs"}, ["CALDIR"]),
        ({"CALDIR": {"drak": "d.asdf"}}, ["CALDIR"]),
        ({"RAMP_OPT_PARS": {"slope": 0}}, ["RAMP_OPT_PARS"]),
        ({"NOISE": {"LAYER": [], "TEMP": "t", "SEED": 1, "OUT": "n.asdf"}}, ["NOISE"]),
    ],
)
def test_good_and_bad_configurations(config, change, place):
    errors = list(config.iter_errors(LEAST | change))
    assert bool(errors) == (place is not None)
    if place is not None:
        assert list(errors[0].absolute_path)[: len(place)] == place


def test_every_key_is_described():
    schema = config_schema()
    for name, model in blocks().items():
        block = schema if not name else schema["$defs"][model.__name__]
        others = OTHER_NAMES if model is Caldir else {}
        assert set(block["properties"]) == set(model.model_fields) | set(others)
        for key, value in block["properties"].items():
            assert len(value["description"]) > 10, key
            field = model.model_fields[others.get(key, key)]
            if not field.is_required() and isinstance(field.default, int | float | str):
                assert value["default"] == field.default, key


def test_titles():
    """Editors show them; they are not the names of the models."""
    assert config_schema()["title"] == "roman-dask-l2 configuration"
    assert campaign_schema()["title"] == "roman-dask-l2 campaign"


def test_the_manual_has_the_same():
    assert json.loads((ROOT / "docs" / "config.schema.json").read_text()) == config_schema()


def test_campaigns(campaign):
    examples = documents("docs/batch.md", "template")
    assert examples
    for example in examples:
        campaign.validate(example)
    good = {
        "template": {"CALDIR": CALDIR, "SKYORDER": "{order}"},
        "exposures": {"glob": "{a}.asdf"},
    }
    campaign.validate(good)
    campaign.validate(good | {"exposures": [{"obs": 1, "sca": "02"}], "SEED": 3})
    for wrong in (
        good | {"exposure": []},
        good | {"template": {"SKYORDER": -1}},
        good | {"template": {"IM": "x"}},
        {"template": {}},
    ):
        assert list(campaign.iter_errors(wrong))


def test_command(tmp_path, capsys):
    assert app.main(["schema"]) == 0
    assert json.loads(capsys.readouterr().out) == config_schema()
    assert app.main(["schema", "--campaign", "-o", str(tmp_path / "c.json")]) == 0
    assert json.loads((tmp_path / "c.json").read_text()) == campaign_schema()
    assert app.main(["schema", "-o", str(tmp_path / "no" / "c.json")]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1
