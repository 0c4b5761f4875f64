"""The layer language."""

from __future__ import annotations

import logging
import pickle
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from roman_dask_l2.config.noise_commands.own_sky import OwnSky
from roman_dask_l2.config.noise_commands.pearson import Pearson
from roman_dask_l2.config.noise_commands.poisson import Poisson
from roman_dask_l2.config.noise_commands.read_noise import ReadNoise
from roman_dask_l2.config.noise_labels import (
    Layer,
    grammar,
    parse,
    parse_all,
    warn_about,
)
from roman_dask_l2.errors import InputError

DOCS = Path(__file__).resolve().parents[2] / "docs"

GOOD = {
    "R": {"R": ReadNoise()},
    "Ra": {"R": ReadNoise(own_ramp=True)},
    "Rz4S2C1": {"R": ReadNoise(clip=4.0), "S": OwnSky(2)},
    "Raz4.5": {"R": ReadNoise(True, 4.5)},
    "Rz4.5a": {"R": ReadNoise(True, 4.5)},
    "Rz.5": {"R": ReadNoise(clip=0.5)},
    "Rz3.": {"R": ReadNoise(clip=3.0)},
    "RS0Cmickey_mouse": {"R": ReadNoise(), "S": OwnSky(0)},
    "RS": {"R": ReadNoise(), "S": OwnSky(0)},
    "RS2": {"R": ReadNoise(), "S": OwnSky(2)},
    "RS02": {"R": ReadNoise(), "S": OwnSky(2)},
    "S3R": {"R": ReadNoise(), "S": OwnSky(3)},
    "P": {"P": Poisson()},
    "Pr": {"P": Poisson()},
    "Pb": {"P": Poisson(0)},
    "Pbr": {"P": Poisson(0)},
    "Prb": {"P": Poisson(0)},
    "Prb2": {"P": Poisson(2)},
    "Pb2r": {"P": Poisson(2)},
    "RP": {"R": ReadNoise(), "P": Poisson()},
    "RPbrS2C7": {"R": ReadNoise(), "P": Poisson(0), "S": OwnSky(2)},
    "O": {"O": Pearson()},
    "OS1": {"O": Pearson(), "S": OwnSky(1)},
    "OC1C_2": {"O": Pearson()},
    "RO": {"R": ReadNoise(), "O": Pearson()},
}

BAD = {  # label: (what is said, index of the caret)
    "": ("expected a command", 0),
    "RxS2": ("unknown argument 'x' of R", 1),
    "Rb": ("unknown argument 'b' of R", 1),
    "R4": ("unknown argument '4' of R", 1),
    "Raa": ("second argument 'a' of R", 2),
    "Rz4z5": ("second argument 'z' of R", 3),
    "Rz": ("expected a number after 'z', found ''", 2),
    "RzS2": ("expected a number after 'z', found ''", 2),
    "Rz4.5.6": ("expected a number after 'z', found '4.5.6'", 2),
    "Raz.": ("expected a number after 'z', found '.'", 3),
    "Rz-4": ("expected a number after 'z', found ''", 2),
    "Rz4e1": ("unknown argument 'e' of R", 3),
    "Rz" + "9" * 400: ("number after 'z' is too large", 2),
    "OR a": ("unknown argument ' ' of R", 2),
    "OR\n": ("unknown argument '\\n' of R", 2),
    "R\u0661": ("unknown argument '\u0661' of R", 1),
    "Pz4": ("unknown argument 'z' of P", 1),
    "P2": ("unknown argument '2' of P", 1),
    "Pb2r3": ("unknown argument '3' of P", 4),
    "Prr": ("second argument 'r' of P", 2),
    "Pb1.5": ("expected a whole number after 'b', found '1.5'", 2),
    "Pb8": ("order after 'b' is larger than 7", 2),
    "PR": ("command 'P' before 'R'", 0),
    "OPrS2R": ("command 'P' before 'R'", 1),
    "O1": ("unknown argument '1' of O", 1),
    "RS1.5": ("expected a whole number after 'S', found '1.5'", 2),
    "RS.": ("expected a whole number after 'S', found '.'", 2),
    "RS-1": ("unknown argument '-' of S", 2),
    "RS2x": ("unknown argument 'x' of S", 3),
    "RS" + "9" * 9000: ("order after 'S' is larger than 7", 2),
    "RCa.b": ("unknown argument '.' of C", 3),
    "RR": ("second command 'R'", 1),
    "OSPS": ("second command 'S'", 3),
    "X": ("unknown command 'X', expected one of R, O, P, S, C,", 0),
    "RQ1": ("unknown command 'Q', expected one of R, O, P, S, C,", 1),
    "r": ("unknown command 'r', expected one of R, O, P, S, C,", 0),
    " R": ("unknown command ' ', expected one of R, O, P, S, C,", 0),
}


@pytest.mark.parametrize("label", GOOD)
def test_good_labels(label):
    layer = parse(label)
    expected = Layer(label, tuple(GOOD[label].items()))  # in the order in which they act
    assert layer == expected
    assert pickle.loads(pickle.dumps(layer)) == layer
    assert hash(layer) == hash(expected)


@pytest.mark.parametrize("label", BAD, ids=lambda label: repr(label[:10]))
def test_bad_labels(label):
    said, index = BAD[label]
    with pytest.raises(InputError) as error:
        parse(label)
    assert str(error.value) == f"NOISE.LAYER {label!r}: {said} at position {index + 1}"


def test_the_message_in_full():
    with pytest.raises(InputError) as error:
        parse("RxS2")
    said = "NOISE.LAYER 'RxS2': unknown argument 'x' of R at position 2"
    assert str(error.value) == said
    assert f"  {said}\n" in (DOCS / "noise.md").read_text()  # one line, there as here


@pytest.mark.parametrize("label", [None, 4, ["R"]])
def test_not_text(label):
    with pytest.raises(InputError, match="expected text"):
        parse(label)
    with pytest.raises(InputError, match="expected text"):
        parse_all(["R", label])


def test_pearson_and_poisson_together_are_warned_of(caplog):
    with caplog.at_level(logging.WARNING):
        layer = parse("OPr")
    assert layer.argument("O") == Pearson()
    assert layer.argument("P") == Poisson()
    assert not caplog.records  # a label is read more than once in a run
    with caplog.at_level(logging.WARNING):
        warn_about([layer, parse("R"), layer])
    assert len(caplog.records) == 1
    assert "'OPr'" in caplog.text
    assert "O and P" in caplog.text


@pytest.mark.parametrize("label", ["S2", "C1"])
def test_a_layer_without_noise_is_warned_of(label, caplog):
    with caplog.at_level(logging.WARNING):
        warn_about([parse(label)])
    assert "no noise" in caplog.text


def test_ordinary_labels_warn_of_nothing(caplog):
    with caplog.at_level(logging.WARNING):
        warn_about(layer for layer, _ in parse_all(["Rz4S2C1", "O", "Prb2", "RPbrS2C7", "RO"]))
    assert not caplog.records


def test_occurrences():
    labels = ["R", "O", "R", "RC1", "O", "R"]
    assert [n for _, n in parse_all(labels)] == [0, 0, 1, 0, 1, 2]
    assert [layer.label for layer, _ in parse_all(labels)] == labels


def test_all_bad_labels_are_reported():
    with pytest.raises(InputError) as error:
        parse_all(["R", "Rx", "PR", "O"])
    assert len(error.value.problems) == 2


def _commands():
    number = st.one_of(st.integers(0, 99).map(str), st.sampled_from(["1.5", ".25", "4."]))
    read = st.permutations(["a", "z"]).flatmap(
        lambda names: st.tuples(
            *(st.sampled_from([n, ""]) if n == "a" else number.map("z{}".format) for n in names)
        ).map(lambda parts: "R" + "".join(parts))
    )
    poisson = st.sampled_from(["P", "Pr", "Pb", "Pb3", "Pbr", "Prb", "Prb7", "Pb0r"])
    sky = st.sampled_from(["S", "S0", "S7"])
    comment = st.text("abz019_", max_size=5).map("C{}".format)
    return st.tuples(read | st.just(""), poisson | st.just(""), sky | st.just(""), comment)


@given(_commands())
def test_whatever_the_grammar_makes_is_read(commands):
    layer = parse("".join(commands))
    assert (layer.argument("R") is not None) == bool(commands[0])
    assert (layer.argument("P") is not None) == bool(commands[1])
    assert (layer.argument("S") is not None) == bool(commands[2])


@given(st.one_of(st.text(max_size=8), st.text("ROPSCXabrz019._ ", max_size=8)))
def test_any_other_text_is_refused_with_its_place(label):
    try:
        assert parse(label).label == label
    except InputError as error:
        said = str(error)
        assert len(said.splitlines()) == 1
        assert said.startswith(f"NOISE.LAYER {label!r}: ")
        position = int(re.findall(r"at position (\d+)$", said)[0])
        assert position <= len(label) + 1


def test_the_manual_shows_the_grammar():
    text = (DOCS / "noise.md").read_text()
    assert f"```text\n{grammar()}```" in text
    assert grammar().startswith("layer   = command { command }\ncommand = read | pearson | ")
    assert grammar().rstrip().endswith('digit   = "0".."9"')
