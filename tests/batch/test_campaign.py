"""Campaign files: what they mean, and what is wrong with them."""

from __future__ import annotations

import copy
import hashlib
import re
from pathlib import Path

import asdf
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from roman_dask_l2.batch.campaign import CampaignFile, load_campaign, only, parse_share, seed, share
from roman_dask_l2.batch.header import PYIMCOM
from roman_dask_l2.batch.placeholders import fill, placeholders
from roman_dask_l2.cli.app import main
from roman_dask_l2.errors import InputError

PAGE = Path(__file__).parents[2] / "docs" / "batch.md"
CALDIR = ("dark", "gain", "linearitylegendre", "read", "saturation", "flat")
TEMPLATE = {
    "IN": "l1/{filter}_{obs}_{sca}.asdf",
    "CALDIR": {key: f"cal/{key}_{{sca}}.asdf" for key in CALDIR},
}
NOISE = {"LAYER": ["RP"], "TEMP": "/tmp"}
LIST = [{"filter": "F158", "obs": obs, "sca": sca} for obs in (1, 2) for sca in (1, 10, 2)]
BASIC = {"template": TEMPLATE, "exposures": LIST}


@pytest.fixture
def load(tmp_path):
    """``load(**changes)``: the campaign; ``None`` removes a key."""

    def make(**changes):
        settings = copy.deepcopy(BASIC) | changes
        settings = {key: value for key, value in settings.items() if value is not None}
        (tmp_path / "campaign.yaml").write_text(yaml.safe_dump(settings, sort_keys=False))
        return load_campaign(tmp_path / "campaign.yaml")

    return make


def problem(load, **changes):
    """The only thing that is wrong."""
    with pytest.raises(InputError) as caught:
        load(**changes)
    assert len(caught.value.problems) == 1, caught.value.problems
    assert caught.value.problems[0].startswith(("campaign.yaml: ", "/"))
    assert "campaign.yaml: " in caught.value.problems[0]
    return caught.value.problems[0].partition("campaign.yaml: ")[2]


# -- what exposures become -----------------------------------------------------------------------


def test_placeholders_are_filled_everywhere(load):
    template = copy.deepcopy(TEMPLATE)
    template |= {"NOISE": NOISE | {"LAYER": ["RP", "{filter}"]}, "SKYORDER": 2}
    entry = load(template=template, SEED=1).entries[0]
    assert entry.identity == "filter=F158,obs=1,sca=1"
    assert entry.settings["IN"] == "l1/F158_1_1.asdf"
    assert entry.settings["CALDIR"]["dark"] == "cal/dark_1.asdf"
    assert entry.settings["NOISE"]["LAYER"] == ["RP", "F158"]
    assert entry.settings["SKYORDER"] == 2


def test_default_names_are_those_of_pyimcom(load):
    entry = load(template=TEMPLATE | {"NOISE": NOISE}, SEED=1).entries[0]
    assert entry.settings["OUT"] == "sim_L2_F158_1_1.asdf"
    assert entry.settings["NOISE"]["OUT"] == "sim_L2_F158_1_1_noise.asdf"
    assert entry.settings["SLICEOUT"] is True  # noise layers need it


def test_paths_start_at_the_campaign_file(load, tmp_path):
    campaign = load()
    config = campaign.config(campaign.entries[0])
    assert tmp_path / "l1/F158_1_1.asdf" == config.IN
    assert tmp_path / "sim_L2_F158_1_1.asdf" == config.OUT
    assert campaign.manifest == tmp_path / "campaign.manifest.jsonl"
    assert load(manifest="log/m.jsonl").manifest == tmp_path / "log/m.jsonl"


def test_work_is_ordered_by_detector(load):
    found = [dict(entry.values) for entry in load().entries]
    assert [e["sca"] for e in found] == ["1", "1", "2", "2", "10", "10"]
    assert [e["obs"] for e in found] == ["1", "2"] * 3


@pytest.mark.parametrize(
    ("text", "value", "result"),
    [
        ("{a}", "7", "7"),
        ("{a:02d}", "7", "07"),
        ("{a:d}", "007", "7"),
        ("{a:>4s}", "7", "   7"),
        ("{a}-{a}", "x", "x-x"),
        ("{{a}}", "x", "{a}"),
        ("${a}/{a}", "x", "${a}/x"),  # an environment variable stays one
        ("$a {a}", "x", "$a x"),
    ],
)
def test_fill(text, value, result):
    assert fill(text, {"a": value}) == result
    assert fill({"k": [text]}, {"a": value}) == {"k": [result]}


def test_placeholders_of_a_template():
    template = {"IN": "{a}/{{b}}/${c}/$d", "CALDIR": {"dark": "{e:02d}"}, "LAYER": ["R", "{f}"]}
    assert sorted(placeholders(template)) == ["a", "e", "f"]


def test_numbers_must_be_numbers(load):
    template = TEMPLATE | {"OUT": "{obs}_{sca}_{filter:03d}.asdf"}
    assert "filter is 'F158', which does not suit {filter:03d}" in problem(
        load, template=template, exposures=LIST[:1]
    )


# -- seeds ---------------------------------------------------------------------------------------


def seeds(campaign):
    return {e.identity: e.settings["NOISE"]["SEED"] for e in campaign.entries}


def test_seeds_come_from_identity_not_from_place(load):
    template = TEMPLATE | {"NOISE": NOISE}
    all_of_them = seeds(load(template=template, SEED=1))
    assert len(set(all_of_them.values())) == 6
    turned = seeds(load(template=template, SEED=1, exposures=LIST[::-1]))
    fewer = seeds(load(template=template, SEED=1, exposures=LIST[3:4]))
    assert turned == all_of_them
    assert fewer.items() < all_of_them.items()
    assert not set(seeds(load(template=template, SEED=2)).values()) & set(all_of_them.values())


def test_seeds_never_change():
    """Who changes the scheme changes everybody's noise."""
    text = b'[7, [["filter", "F158"], ["obs", "1"], ["sca", "2"]]]'
    digest = hashlib.blake2b(text, digest_size=8, person=b"roman-dask-l2 b1").digest()
    found = seed(7, (("filter", "F158"), ("obs", "1"), ("sca", "2")))
    assert found == int.from_bytes(digest, "little") >> 1 == 5436263163893697851


# -- where exposures come from -------------------------------------------------------------------


def touch(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(b"")


def test_glob(load, tmp_path):
    touch(tmp_path, "l1/a_F158_03_10.asdf", "l1/a_F158_4_2.asdf", "l1/other.txt")
    touch(tmp_path, "l1/.a_F158_5_2.x-1-abcdef12.part.asdf", "l1/a_F158_x_2.asdf")
    template = {"CALDIR": TEMPLATE["CALDIR"]}  # IN is what was found
    found = load(template=template, exposures={"glob": "l1/a_{filter}_{obs:d}_{sca:d}.asdf"})
    assert [e.identity for e in found.entries] == [
        "filter=F158,obs=4,sca=2", "filter=F158,obs=3,sca=10",
    ]  # fmt: skip
    assert found.entries[1].settings["IN"] == str(tmp_path / "l1/a_F158_03_10.asdf")
    assert found.entries[1].settings["OUT"] == "sim_L2_F158_3_10.asdf"


def test_glob_with_a_placeholder_twice(load, tmp_path):
    touch(tmp_path, "1/x_1.asdf", "2/x_2.asdf", "2/x_1.asdf")
    template = {"OUT": "{sca}.asdf", "CALDIR": TEMPLATE["CALDIR"]}
    found = load(template=template, exposures={"glob": "{sca}/?_{sca}.asdf"})
    assert [e.identity for e in found.entries] == ["sca=1", "sca=2"]


def test_ambiguous_names(load, tmp_path):
    touch(tmp_path, "l1/F_158_1_2.asdf")
    said = problem(load, exposures={"glob": "l1/{filter}_{obs}_{sca}.asdf"})
    assert "can be read as filter=F, obs=158, sca=1_2 or filter=F_158, obs=1, sca=2" in said


@pytest.mark.parametrize("suffix", ["csv", "ecsv"])
def test_table(load, tmp_path, suffix):
    from astropy.table import Table

    table = Table({"filter": ["F158", "F106"], "obs": [7, 12], "sca": ["01", "02"], "ra": [1.5, 2]})
    table.write(tmp_path / f"t.{suffix}", format=f"ascii.{suffix}")
    found = load(exposures={"table": f"t.{suffix}"})
    # "ra" is used nowhere, so it is no part of the identity
    assert [e.identity for e in found.entries] == [
        "filter=F158,obs=7,sca=01", "filter=F106,obs=12,sca=02",
    ]  # fmt: skip


def test_table_with_an_empty_cell(load, tmp_path):
    (tmp_path / "t.csv").write_text("filter,obs,sca,note\nF158,1,1,\nF158,,2,x\n")
    said = problem(load, exposures={"table": "t.csv"})
    assert said.startswith("t.csv row 2 has no 'obs', which the template uses")


def test_columns_that_are_not_used_change_no_seed(load, tmp_path):
    template = TEMPLATE | {"NOISE": NOISE}
    listed = seeds(load(template=template, SEED=1, exposures=LIST[:1]))
    (tmp_path / "t.csv").write_text("note,sca,obs,filter\nfine,1,1,F158\n")
    assert seeds(load(template=template, SEED=1, exposures={"table": "t.csv"})) == listed


# -- what is wrong -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"tamplate": {}}, "unknown key tamplate, did you mean 'template'?"),
        ({"SKYORDER": 2}, "key SKYORDER is one of a configuration: put it under template"),
        ({"template": None}, "required key template is missing"),
        ({"template": []}, "template is [], expected a mapping"),
        ({"exposures": []}, "exposures.list is [], expected at least 1 entry"),
        ({"exposures": {"globe": "x"}}, "exposures: unknown key globe, did you mean 'glob'?"),
        ({"exposures": {"glob": "{a}", "table": "t.csv"}}, "exactly one of list, glob and table"),
        ({"exposures": "x"}, "exposures is 'x', expected a mapping"),
        ({"exposures": [{"obs": True}]}, "exposures.list[0].obs is True, expected text or a numb"),
        ({"exposures": [{"obs": "a,b"}]}, "expected text without commas"),
        ({"exposures": [{"filter": "F", "obbs": 1, "sca": 1}]}, "exposures[0] has no 'obs', which"),
        ({"exposures": {"glob": "l1/nothing_{sca}.asdf"}}, "no such files"),
        ({"exposures": {"glob": "l1/*.asdf"}}, "no {placeholder} in it"),
        ({"exposures": {"glob": "$NOWHERE_AT_ALL/{sca}.asdf"}}, "NOWHERE_AT_ALL"),
        ({"exposures": {"table": "none.csv"}}, "none.csv: no such file"),
        ({"exposures": {"table": "none.txt"}}, "expected a file name that ends in .csv or .ecsv"),
        ({"exposures": [LIST[0], LIST[1], LIST[0]]}, "exposures[0] and exposures[2] are the same "
         "exposure, filter=F158,obs=1,sca=1"),
        ({"template": TEMPLATE | {"IN": "{sca"}}, "'{sca': a brace without its partner"),
        ({"template": TEMPLATE | {"IN": "{sca.x}"}}, "{sca.x} is not a placeholder"),
        ({"template": TEMPLATE | {"IN": "{scan}"}}, "has no 'scan', which the template uses, did"),
        ({"template": TEMPLATE | {"NOISE": NOISE}}, "required key SEED is missing"),
        ({"template": TEMPLATE | {"NOISE": NOISE | {"SEED": 1}}}, "template.NOISE.SEED: give SEED"),
        ({"SEED": -1}, "SEED is -1, expected a whole number from 0 up"),
    ],
)  # fmt: skip
def test_wrong(load, changes, said):
    if "exposures" not in changes:
        changes = changes | {"exposures": LIST[:1]}
    assert said in problem(load, **changes)


def test_a_table_that_is_none(load, tmp_path):
    (tmp_path / "t.ecsv").write_text("not a table\n")
    assert "not a readable table" in problem(load, exposures={"table": "t.ecsv"})


def test_two_exposures_with_one_output(load):
    template = TEMPLATE | {"OUT": "{filter}_{obs}.asdf"}
    said = problem(load, template=template, exposures=LIST[:2])
    assert said.startswith("OUT of filter=F158,obs=1,sca=1 and OUT of filter=F158,obs=1,sca=10 are")
    assert said.endswith("F158_1.asdf")


def test_the_output_of_one_is_the_input_of_another(load):
    template = TEMPLATE | {"IN": "{obs}.asdf", "OUT": "{sca}.asdf"}
    exposures = [{"obs": 1, "sca": 2}, {"obs": 2, "sca": 3}]
    said = problem(load, template=template, exposures=exposures)
    assert said.startswith("OUT of obs=1,sca=2 and IN of obs=2,sca=3 are the same file")


def test_many_problems_of_one_kind_are_cut_short(load):
    exposures = [{"filter": "F158", "obs": i} for i in range(100)]
    with pytest.raises(InputError) as caught:
        load(exposures=exposures)
    assert len(caught.value.problems) == 11
    assert caught.value.problems[-1].endswith("and 90 more like these")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"SKYORDR": 2}, "template: unknown key SKYORDR, did you mean 'SKYORDER'?"),
        ({"SKYORDER": "many"}, "template: SKYORDER is 'many', expected a whole number"),
        ({"GRAPH": "l2_to_l1"}, "template: GRAPH: no recipe or file 'l2_to_l1'"),
        ({"OUT": "{filter}_{obs}_{sca}.fits"}, "expected a file name that ends in .asdf"),
    ],
)
def test_a_wrong_template_is_status_2(load, tmp_path, capsys, change, said):
    load(template=TEMPLATE | change)
    assert main(["batch", str(tmp_path / "campaign.yaml"), "--quiet"]) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "campaign.manifest.jsonl").exists()


def test_one_wrong_exposure_is_named(load, tmp_path, capsys):
    exposures = [entry | {"order": 2} for entry in LIST[:2]] + [LIST[2] | {"order": "x"}]
    load(template=TEMPLATE | {"SKYORDER": "{order}"}, exposures=exposures)
    assert main(["batch", str(tmp_path / "campaign.yaml"), "--quiet"]) == 2
    said = capsys.readouterr().err
    assert "filter=F158,obs=1,order=x,sca=2: SKYORDER is 'x', expected a whole number" in said


# -- choosing ------------------------------------------------------------------------------------


@given(count=st.integers(0, 60), n=st.integers(1, 25))
def test_every_exposure_is_in_exactly_one_share(count, n):
    entries = list(range(count))
    shares = [share(entries, i, n) for i in range(1, n + 1)]
    assert [e for part in shares for e in part] == entries
    sizes = [len(part) for part in shares]
    assert max(sizes) - min(sizes) <= 1


@pytest.mark.parametrize("text", ["0/3", "4/3", "1/0", "1", "a/b", "-1/3", "1/3/5"])
def test_wrong_shares(text):
    with pytest.raises(InputError, match="expected i/n with i from 1 to n"):
        parse_share(text)


def test_only(load):
    entries = load().entries

    def chosen(*patterns):
        return [entry.identity for entry in only(entries, patterns)]

    assert chosen("obs=1,sca=10") == ["filter=F158,obs=1,sca=10"]
    assert len(chosen("filter=F*,sca=1")) == 2
    assert len(chosen("sca=1", "sca=2")) == 4
    assert chosen("sca=2,obs=2", "sca=1,obs=1") == [  # in the order of work
        "filter=F158,obs=1,sca=1", "filter=F158,obs=2,sca=2",
    ]  # fmt: skip
    assert len(chosen()) == 6
    for pattern, said in (("sca", "name=value"), ("scar=1", "did you mean 'sca'"),
                          ("sca=3", "no exposure is like that")):  # fmt: skip
        with pytest.raises(InputError, match=said):
            chosen(pattern)


# -- the manual ----------------------------------------------------------------------------------


def test_the_example_of_the_manual(tmp_path, monkeypatch):
    text = re.findall(r"```yaml\n(template:.*?)```", PAGE.read_text(), re.DOTALL)[0]
    (tmp_path / "campaign.yaml").write_text(text)
    touch(tmp_path, "l1/sim_L1_F158_13_7.asdf")
    monkeypatch.setenv("CALIBRATION", "/cal")
    monkeypatch.setenv("TMPDIR", "/tmp")
    campaign = load_campaign(tmp_path / "campaign.yaml")
    config = campaign.config(campaign.entries[0])
    assert campaign.entries[0].identity == "filter=F158,obs=13,sca=7"
    assert tmp_path / "l1/sim_L1_F158_13_7.asdf" == config.IN
    assert str(config.CALDIR.flat) == "/cal/flat_F158_SCA07.asdf"
    assert config.NOISE.OUT.name == "sim_L2_F158_13_7_noise.asdf"


def test_every_key_is_in_the_manual():
    for key in CampaignFile.model_fields:
        assert f"| `{key}` |" in PAGE.read_text()


# -- what the header gives -----------------------------------------------------------------------


@pytest.fixture
def with_headers(load, tmp_path):
    """``with_headers(elements, **changes)``: the campaign, with Level-1 files through these."""

    def make(elements, **changes):
        (tmp_path / "l1").mkdir(exist_ok=True)
        for obs, element in enumerate(elements):
            tree = {"roman": {"meta": {"instrument": {"optical_element": element}}}}
            asdf.AsdfFile(tree).write_to(tmp_path / "l1" / f"{obs}_7.asdf")
        template = TEMPLATE | {"OUT": "l2/sim_L2_{pyimcom_filter}_{obs}_{sca}.asdf"}
        del template["IN"]
        return load(template=template, exposures={"glob": "l1/{obs:d}_{sca:d}.asdf"}, **changes)

    return make


def test_names_of_pyimcom(with_headers):
    """The filter has PyIMCOM's name, from the header; identity and seed are as without it."""
    campaign = with_headers([*PYIMCOM])
    names = {entry.settings["OUT"] for entry in campaign.entries}
    assert names == {f"l2/sim_L2_{name}_{i}_7.asdf" for i, name in enumerate(PYIMCOM.values())}
    assert campaign.entries[0].identity == "obs=0,sca=7"


def test_names_of_pyimcom_are_those_of_the_manual():
    page = (PAGE.parent / "others.md").read_text()
    rows = [re.findall(r"\b[A-Z]\d{3}\b", line) for line in page.splitlines() if line[:1] == "|"]
    table = [row for row in rows if len(row) == len(PYIMCOM)]
    assert table == [[*PYIMCOM], [*PYIMCOM.values()]]


def test_headers_that_do_not_help(with_headers, load):
    with pytest.raises(InputError, match=r"pyimcom_filter.*PRISM, PyIMCOM has names for F062"):
        with_headers(["F158", "PRISM"])
    template = TEMPLATE | {"OUT": "l2/{optical_element}_{obs}_{sca}.asdf"}
    assert "F158_1_1.asdf: no such file" in problem(
        load, template=template, exposures=[LIST[0]]
    ).replace("l1/", "")
    template |= {"IN": "{optical_element}.asdf"}
    assert "expected a Level-1 file" in problem(load, template=template, exposures=[LIST[0]])
