"""Random streams. Rates of false alarm are per run with new seeds; with these seeds all pass."""

from __future__ import annotations

import hashlib
import itertools
import pickle
from pathlib import Path

import numpy as np
import pytest

from roman_dask_l2.config.noise_commands.registry import COMMANDS
from roman_dask_l2.config.noise_labels import parse_all
from roman_dask_l2.noise.streams import DrawKind, Streams, stream, stream_key

DOCS = Path(__file__).resolve().parents[2] / "docs"
FULL = 2**64 - 1


def words(text):
    """Little-endian integer of 64-bit hexadecimal words, as NumPy takes counters and keys."""
    return sum(int(word, 16) << 64 * i for i, word in enumerate(text.split()))


@pytest.mark.parametrize(
    ("counter", "key", "expected"),
    [  # Random123, kat_vectors, "philox4x64 10"
        (
            "0 0 0 0",
            "0 0",
            "16554d9eca36314c db20fe9d672d0fdc d7e772cee186176b 7e68b68aec7ba23b",
        ),
        (
            " ".join(["ffffffffffffffff"] * 4),
            " ".join(["ffffffffffffffff"] * 2),
            "87b092c3013fe90b 438c3c67be8d0224 9cc7d7c69cd777b6 a09caebf594f0ba0",
        ),
        (
            "243f6a8885a308d3 13198a2e03707344 a4093822299f31d0 082efa98ec4e6c89",
            "452821e638d01377 be5466cf34e90c6c",
            "a528f45403e61d95 38c72dbd566e9788 a5a1610e72fd18b5 57bd43b5e52b7fe6",
        ),
    ],
)
def test_published_vectors(counter, key, expected):
    # NumPy counts up before it makes a block.
    before = (words(counter) - 1) % 2**256
    raw = np.random.Philox(counter=before, key=words(key)).random_raw(4)
    np.testing.assert_array_equal(raw, np.array([int(w, 16) for w in expected.split()], np.uint64))


def test_a_stream_is_philox_with_its_key():
    rng = stream(3, "R", 0, DrawKind.WHITE, 1, 2)
    state = rng.bit_generator.state
    key = stream_key(3, "R", 0, DrawKind.WHITE, 1, 2)
    assert state["bit_generator"] == "Philox"
    assert list(state["state"]["key"]) == [key & FULL, key >> 64]
    assert not state["state"]["counter"].any()


def test_the_scheme_does_not_change_unnoticed():
    """Keys from the text that the module's docstring describes, and one stream's first words."""
    text = b"1905\n2\npink_channel\n7\n31\nRz4S2C1"
    digest = hashlib.blake2b(text, digest_size=16, person=b"roman-dask-l2 v1").digest()
    key = stream_key(1905, "Rz4S2C1", 2, DrawKind.PINK_CHANNEL, 7, 31)
    assert key == int.from_bytes(digest, "little")
    assert key == 96623120420049053074106556781088775077
    raw = stream(1905, "Rz4S2C1", 2, DrawKind.PINK_CHANNEL, 7, 31).bit_generator.random_raw(2)
    assert list(raw) == [4596448805118376948, 1218578454289269390]
    shared = stream_key(1905, "R", 0, DrawKind.RESET, None, 0)
    text = b"1905\n0\nreset\n-\n0\nR"
    digest = hashlib.blake2b(text, digest_size=16, person=b"roman-dask-l2 v1").digest()
    assert shared == int.from_bytes(digest, "little")


def test_no_two_keys_collide():
    """100 layers (some labels equal, some easily confused) of 64 resultants: all kinds of draws,
    a sample of blocks for all and all 1024 blocks for some."""
    labels = [f"{text}C{i}" for text in ("R", "Rz4", "RP", "Pr", "Prb2") for i in range(12)]
    labels += ["R"] * 12 + ["RC1"] * 12 + ["Ra"] * 12 + ["O", "OC", "OC0", "OC00"]
    layers = [(layer.label, n) for layer, n in parse_all(labels)]
    assert len(layers) == 100
    resultants = [None, *range(64)]
    seen, count = set(), 0
    blocks = (0, 1, 10, 31, 101, 1023)
    every = itertools.product(layers, DrawKind, resultants, blocks)
    some = itertools.product(layers[::33], DrawKind, (None, 0, 63), range(1024))
    some = (c for c in some if c[3] not in blocks)
    for (label, n), what, j, block in itertools.chain(every, some):
        seen.add(stream_key(7, label, n, what, j, block))
        count += 1
    assert count > 390_000
    assert len(seen) == count


def test_fields_cannot_run_into_each_other():
    """Tuples whose parts, simply joined, would be the same text."""
    base = DrawKind.WHITE
    keys = {
        stream_key(*args)
        for args in [
            (1, "R", 11, base, 1, 1),
            (11, "R", 1, base, 1, 1),
            (1, "R", 1, base, 11, 1),
            (1, "R", 1, base, 1, 11),
            (1, "1\nR", 1, base, 1, 1),
            (1, "1R", 1, base, 1, 1),
            (1, "R", 1, base, None, 11),
            (1, "R", 1, base, -1, 11),
        ]
    }
    assert len(keys) == 8


def test_every_part_of_the_key_counts():
    first = (5, "R", 0, DrawKind.WHITE, 2, 3)
    others = [
        (6, "R", 0, DrawKind.WHITE, 2, 3),
        (5, "RC1", 0, DrawKind.WHITE, 2, 3),
        (5, "R", 1, DrawKind.WHITE, 2, 3),
        (5, "R", 0, DrawKind.RESET, 2, 3),
        (5, "R", 0, DrawKind.WHITE, None, 3),
        (5, "R", 0, DrawKind.WHITE, 1, 3),
        (5, "R", 0, DrawKind.WHITE, 2, 4),
    ]
    draws = stream(*first).standard_normal(64)
    np.testing.assert_array_equal(draws, stream(*first).standard_normal(64))
    for other in others:
        assert not np.isin(draws, stream(*other).standard_normal(64)).any()


def test_a_seed_changes_everything():
    """No key of one seed is one of another's."""
    cases = list(itertools.product(DrawKind, (None, 0, 1, 2), range(32)))
    keys = [{stream_key(seed, "R", 0, *case) for case in cases} for seed in (0, 1, 10, 2**70)]
    assert len(set.union(*keys)) == 4 * len(cases)


def test_numbers_of_any_integer_type():
    plain = stream_key(5, "R", 1, DrawKind.WHITE, 2, 3)
    assert plain == stream_key(*(np.int64(5), "R", np.uint8(1), "white", np.int32(2), np.int64(3)))
    with pytest.raises(TypeError):
        stream_key(5, "R", 1, DrawKind.WHITE, 2.0, 3)
    with pytest.raises(ValueError, match="Grey"):
        stream_key(5, "R", 1, "Grey\n1", 2, 3)


def test_streams_of_a_layer_travel():
    streams = pickle.loads(pickle.dumps(Streams(4, "R", 1)))
    draws = streams(DrawKind.WHITE, 2, 3).random(5)
    np.testing.assert_array_equal(draws, stream(4, "R", 1, DrawKind.WHITE, 2, 3).random(5))


def test_neighbouring_streams_are_independent():
    """Correlation of normals between any two of 160 neighbours, at lags 0 and 1.

    Of n = 20000 draws a correlation is normal with sigma 1/sqrt(n): none of the 12720 + 25440
    beyond 6.2 sigma (false alarm 2e-5), and their mean square within 5.5 of its own sigma (8e-8).
    """
    n = 20_000
    grid = itertools.product(
        (0, 1), (DrawKind.WHITE, DrawKind.PINK_CHANNEL), (0, 1), (None, 0, 1, 2)
    )
    draws = np.array(
        [
            stream(1, "R", occurrence, what, j, block + step).standard_normal(n, np.float32)
            for occurrence, what, block, j in grid
            for step in (0, 2, 4, 6, 8)
        ],
        float,
    )
    assert len(draws) == 160
    upper = np.triu_indices(len(draws), 1)
    same = (draws @ draws.T / np.sqrt(n))[upper]
    shifted = draws[:, 1:] @ draws[:, :-1].T / np.sqrt(n - 1)
    shifted = shifted[~np.eye(len(draws), dtype=bool)]
    for z in (same, shifted):
        assert np.abs(z).max() < 6.2
        assert abs((z**2).mean() - 1) < 5.5 * np.sqrt(2 / z.size)


def test_normals_of_many_streams():
    """First draws of 40000 streams are as normal as draws of one: the first four moments within
    5 sigma (false alarm 2e-6)."""
    firsts = np.array(
        [
            stream(2, "R", 0, DrawKind.WHITE, j, block).standard_normal(dtype=np.float32)
            for j in range(40)
            for block in range(1000)
        ]
    ).astype(float)
    moments = np.array([(firsts**k).mean() for k in (1, 2, 3, 4)])
    sigma = np.sqrt(np.array([1, 2, 15, 96]) / firsts.size)
    assert (np.abs(moments - [0, 1, 0, 3]) < 5 * sigma).all()


def test_every_draw_is_declared_once():
    """By a command, of whose declaration the manual's table is made."""
    declared = [what for command in COMMANDS.values() for what, _, _ in command.streams]
    assert sorted(declared) == sorted(DrawKind)
    assert "<!-- table noise_streams -->" in (DOCS / "noise.md").read_text()
