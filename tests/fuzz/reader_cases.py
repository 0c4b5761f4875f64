"""Cases for the reader of ASDF files, and what tries them; run by `test_reader.py` in a process of
its own: ``python reader_cases.py WHAT CASES FOLDER``."""

from __future__ import annotations

import bz2
import json
import os
import signal
import site
import struct
import sys
import sysconfig
import traceback
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lz4.block
import numpy as np
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from roman_dask_l2.errors import InputError
from roman_dask_l2.io.layout import known_layout, read_head, read_layout
from roman_dask_l2.io.tree import check_tree

LIMIT = 10.0
"""Seconds for a case."""
READ = 1 << 26
"""Bytes of the largest array that is read: what uses them looks at their shape first."""
HEADER = struct.Struct(">I4sQQQ16s")
WHOLE = "&a [*a]", "&a {b: *a}"
TEXTS = [
    "",
    "~",
    "1",
    "-1",
    "1.5",
    ".nan",
    "x",
    "'*'",
    "[]",
    "{}",
    "[1, 2]",
    "[[1, 2], [3]]",
    "[[]]",
    "[2, 2]",
    "[4]",
    "[0]",
    "[-4]",
    "[2, 2, 2]",
    "[1099511627776, 1099511627776]",
    "[0, 1099511627776]",
    "[4, '*']",
    "[8, 4]",
    "[0, 0]",
    "[-8, -4]",
    "[1.5]",
    "[null]",
    "[[4]]",
    "{a: 1}",
    "true",
    "99999999999999999999",
    "-9223372036854775809",
    "1:" * 40 + "1",
    "1:" * 3000 + "1",
    "9" * 5000,
    "0x" + "f" * 5000,
    "'" + "9" * 5000 + "'",
    "!!int ''",
    "!!float ''",
    "!!int x",
    "!!float x",
    "!!bool x",
    "!!null x",
    "!!timestamp x",
    "!!binary '*'",
    "!!binary é",
    "!!set {a, b}",
    "!!omap [a: 1]",
    "!!pairs [a]",
    "!!set [1]",
    "!!map x",
    "!!seq {}",
    "!!str {'=': 1}",
    "!!merge x",
    "2026-13-45",
    "2026-01-01",
    "!!python/object/apply:os.system ['touch HERE/ran']",
    "!!python/name:os.system",
    "!!python/tuple [1]",
    "!!python/object/new:subprocess.Popen [[touch, HERE/ran]]",
    "!<tag:stsci.edu:asdf/unknown-9.9.9> {a: 1}",
    "&x [1, 2]",
    "*x",
    "*nowhere",
    "[&y [1], *y, *y]",
    *WHOLE,
    "? [a]\n  : 1",
    "{<<: {a: 1}, a: 2}",
    "{<<: [{a: 1}, {b: 2}]}",
    "{<<: 3}",
    "{a: 1, a: 2}",
    "{[1]: 2}",
    "{{}: 2}",
    "[" * 150 + "]" * 150,
    "[" * 3000 + "]" * 3000,
    "[" * 5000,
    "{a: " * 500 + "}" * 500,
    "'" + "x" * 20000 + "'",
    "\t",
    "@",
    "%",
    "|\n    text",
    ">-\n    folded",
    "\ufeff",
    "\u2028",
    "\x00",
    "\x85",
    "\ud800",
    "'\\ud800'",
    '"\\ud800"',
    "int8",
    "uint16",
    "float32",
    "float64",
    "bool8",
    "complex128",
    "[ascii, 5]",
    "ucs4",
    "[{name: a, datatype: int8}]",
    "big",
    "little",
    "0",
    "2",
    "5",
    "9",
    "beside.asdf",
    "loop.asdf",
    "no.asdf",
    "below/beside.asdf",
    "../elsewhere.asdf",
    "below/../../elsewhere.asdf",
    "%2e%2e/elsewhere.asdf",
    "ELSE",
    "file://ELSE",
    "file:ELSE",
    "file:///dev/zero",
    "/dev/zero",
    "/dev/stdin",
    "/etc/passwd",
    "pipe",
    "folder",
    "'%00'",
    "'a%0ab'",
    "http://127.0.0.1:9/x.asdf",
    "ftp://127.0.0.1/x",
    "//127.0.0.1/x",
    "data:,x",
    "'#/roman/data'",
    "'[::'",
    "'?x'",
    "'..'",
    "'.'",
    "'%ff'",
    "\\\\\\\\host\\\\x",
    "c:x",
    "{$ref: ELSE}",
    "{$ref: '#/roman'}",
    "!core/externalarray-1.0.0 {fileuri: ELSE, target: 0, datatype: int8, shape: [1]}",
]
BOMBS = {
    "aliases": "&l0 [1, 1]\n" + "".join(
        f"b{i}: &l{i} [*l{i - 1}, *l{i - 1}]\n" for i in range(1, 60)
    ),
    "merges": "&l0 {a: 1}\n" + "".join(
        f"b{i}: &l{i} {{<<: [*l{i - 1}, *l{i - 1}]}}\n" for i in range(1, 60)
    ),
    "numbers": "[" + "1," * 400_000 + "]\n",
    "mappings": "[" + "{}," * 400_000 + "]\n",
    "anchors": "[" + ",".join(f"&a{i} x" for i in range(310_000)) + "]\n",
    "a long text": "'" + "x" * (15 << 20) + "'\n",
    "an endless tree": "'" + "x" * (17 << 20) + "'\n",
    "times": "1" + ":59" * 300_000 + "\n",
    "levels": "[" * 900 + "]" * 900 + "\n",
    "texts and one long one": "{data: [" + "a," * 50_000 + "'" + "x" * 1_000_000 + "']}\n",
}  # fmt: skip
"""Trees that unfold, each in a file of less than 20 MB."""
KEYS = ["source", "shape", "datatype", "byteorder", "offset", "strides", "data", "mask", "value",
        "unit", "$ref", "<<"]  # fmt: skip


def document(entries: dict[str, str], meta: str, top: str) -> str:
    """A tree with one array, whose entries and neighbours are whatever is given."""
    node = {"source": "0", "datatype": "float32", "byteorder": "little", "shape": "[4, 4]"}
    node |= entries
    lines = "".join(f"    {key}: {value}\n" for key, value in node.items() if value != "-")
    return (
        "#ASDF 1.0.0\n#ASDF_STANDARD 1.6.0\n%YAML 1.1\n%TAG ! tag:stsci.edu:asdf/\n"
        "--- !core/asdf-1.1.0\nroman: !<asdf://stsci.edu/datamodels/roman/tags/wfi_science_raw-1.0.0>\n"
        f"  data: !core/ndarray-1.1.0\n{lines}  meta: {meta}\n{top}\n...\n"
    )


PLAIN = np.arange(16, dtype="<f4").tobytes()
PIECE = lz4.block.compress(PLAIN)
PACKED = {
    b"": PLAIN,
    b"zlib": zlib.compress(PLAIN),
    b"bzp2": bz2.compress(PLAIN),
    b"lz4": len(PIECE).to_bytes(4, "big") + PIECE,
}
ZEROS = bytes(1 << 26)
DATA = [
    *PACKED.values(), b"", PLAIN[:10], zlib.compress(ZEROS), bz2.compress(ZEROS), b"\xff" * 64,
    (8).to_bytes(4, "big") + (1 << 31).to_bytes(4, "little") + b"abcd", bytes(64),
    PACKED[b"lz4"] * 2,
    zlib.compress(PLAIN) + b"more", zlib.compress(PLAIN)[:-2],
]  # fmt: skip
SIZES = [0, 1, 7, 8, 64, 65, 1 << 26, 1 << 31, 1 << 40, (1 << 63) - 1, 1 << 63, (1 << 64) - 1]

GOOD: dict[str, Any] = {
    "magic": b"\xd3BLK", "length": 48, "flags": 0, "how": b"", "data": None, "sizes": (None,) * 3
}  # fmt: skip

texts = st.one_of(st.sampled_from(TEXTS), st.sampled_from(TEXTS), st.text(max_size=12))
trees = st.builds(
    document,
    st.dictionaries(st.sampled_from(KEYS), st.one_of(st.just("-"), texts), max_size=3),
    texts,
    st.one_of(st.just(""), texts, texts.map(lambda text: f"more: {text}")),
)
blocks = st.fixed_dictionaries({
    "magic": st.sampled_from([b"\xd3BLK"] * 9 + [b"\xd3BLX"]),
    "length": st.sampled_from([48] * 9 + [0, 1, 47, 49, 65535]),
    "flags": st.sampled_from([0, 0, 0, 1, 2, 0xFFFFFFFF]),
    "how": st.sampled_from([*PACKED, *PACKED, b"zstd", b"\xff\xff\xff\xff", b"lz4\0"]),
    "sizes": st.tuples(*[st.one_of(st.none(), st.none(), st.sampled_from(SIZES))] * 3),
    "data": st.one_of(st.none(), st.sampled_from(DATA)),
})  # fmt: skip
edits = st.lists(
    st.tuples(
        st.integers(0, 2000), st.sampled_from(["flip", "cut", "insert"]), st.binary(max_size=6)
    ),
    max_size=2,
)  # fmt: skip


def block(facts: dict[str, Any]) -> bytes:
    data = facts["data"] if facts["data"] is not None else PACKED.get(facts["how"], PLAIN)
    real = (len(data), len(data), 64)
    allocated, used, size = (
        a if b is None else b for a, b in zip(real, facts["sizes"], strict=True)
    )
    head = HEADER.pack(facts["flags"], facts["how"], allocated, used, size, b"\1" * 16)
    return facts["magic"] + struct.pack(">H", facts["length"]) + head + data


def edited(data: bytes, changes: list[tuple[int, str, bytes]]) -> bytes:
    for at, how, new in changes:
        at %= len(data) + 1
        if how == "cut":
            data = data[:at]
        else:
            data = data[:at] + new + data[at + (len(new) if how == "flip" else 0) :]
    return data


class Watch:
    """What happens while a case is tried: files that are opened, programs, connections."""

    def __init__(self, *folders: Path) -> None:
        # What is imported late is read, too.
        packages = {*site.getsitepackages(), *sysconfig.get_paths().values()}
        self.folders = tuple(f"{folder}/" for folder in (*folders, *packages))
        self.on = False
        self.seen: list[str] = []
        sys.addaudithook(self._hook)

    def _hook(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self.on:
            return
        if event == "open":
            path = arguments[0]
            if isinstance(path, int):
                return
            if not f"{os.fsdecode(path)}/".startswith(self.folders):
                self.seen.append(f"opened {path!r}")
        elif event.startswith(("os.system", "os.exec", "os.spawn", "os.posix_spawn", "os.remove",
                               "os.rename", "os.mkdir", "subprocess.", "socket.", "urllib.",
                               "shutil.")):  # fmt: skip
            self.seen.append(f"{event} {arguments!r}"[:200])


class TooLong(BaseException):
    """A case has not ended in time."""


def arrays(node: Any, key: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    """Where something like an array stands, near the top of a tree."""
    if not isinstance(node, dict) or len(key) > 3:
        return []
    like = {"source", "datatype", "shape", "data"} & set(node) and key != ("roman",)
    found = [key] if like else []
    return found + [k for name, v in node.items() for k in arrays(v, (*key, name))]


def read(path: Path) -> None:
    """All that the program does with a file before it knows what it is."""
    layout = read_layout(path)
    assert layout.tag is None or isinstance(layout.tag, str)
    assert known_layout(path).content == layout.content == read_head(path)[1]
    problems = []
    for key in arrays(layout.tree):
        try:
            array = layout.array(*key)
            if array is not None and np.prod(array.shape, dtype=float) * 8 <= READ:
                values = array.read()
                assert values.shape == array.shape
        except InputError as error:
            problems.append(error)
    check_tree(str(path), layout.tree)
    if problems:
        raise problems[0]


class Trial:
    """Tries cases, and counts them.

    Parameters
    ----------
    folder : Path
        Where files are made.
    tried : callable
        What is tried: it gets the path of a file.
    *others : Path
        Directories that it may read, too.
    """

    def __init__(self, folder: Path, tried: Callable[[Path], None] = read, *others: Path) -> None:
        self.tried = tried
        self.path = folder / "inside" / "case.asdf"
        self.path.parent.mkdir()
        self.counts = {"read": 0, "refused": 0}
        good = document({}, "{}", "").encode() + block(GOOD)
        self.elsewhere = folder / "elsewhere.asdf"
        self.elsewhere.write_bytes(good)
        beside = self.path.parent
        (beside / "below").mkdir()
        (beside / "folder").mkdir()
        os.mkfifo(beside / "pipe")
        for name in ("beside.asdf", "below/beside.asdf"):
            (beside / name).write_bytes(good)
        (beside / "loop.asdf").write_bytes(good.replace(b"source: 0", b"source: loop.asdf"))
        self.path.write_bytes(good)
        read(self.path)
        for how in PACKED:  # what is imported when it is needed
            self.path.write_bytes(document({}, "{}", "").encode() + block(GOOD | {"how": how}))
            read(self.path)
        signal.signal(signal.SIGALRM, self._late)
        self.watch = Watch(self.path.parent, *others)

    def _late(self, *_: Any) -> None:
        raise TooLong

    def __call__(self, data: bytes) -> None:
        data = data.replace(b"ELSE", str(self.elsewhere).encode())
        data = data.replace(b"HERE", str(self.path.parent).encode())
        self.path.unlink()
        self.path.write_bytes(data)
        self.watch.seen.clear()
        signal.setitimer(signal.ITIMER_REAL, LIMIT)
        self.watch.on = True
        try:
            self.tried(self.path)
        except InputError as error:
            self.counts["refused"] += 1
            (line,) = str(error).split("\n")
            assert 0 < len(line) < 2000, line
        else:
            self.counts["read"] += 1
        finally:
            self.watch.on = False
            signal.setitimer(signal.ITIMER_REAL, 0)
        assert not self.watch.seen, list(self.watch.seen)
        assert not (self.path.parent / "ran").exists()


def run(what: str, cases: int, folder: Path) -> dict[str, Any]:
    """Try so many cases of a kind: how many were read and refused."""
    trial = Trial(folder)

    def tree(text: str, facts: list[dict[str, Any]]) -> None:
        trial(text.encode("utf-8", "surrogatepass") + b"".join(map(block, facts)))

    def header(
        facts: list[dict[str, Any]], entry: str, changes: list[tuple[int, str, bytes]]
    ) -> None:
        text = document({"source": entry}, "{}", "").encode()
        trial(edited(text + b"".join(map(block, facts)), changes))

    if what == "bombs":
        for bomb in BOMBS.values():
            text = document({}, "{}", "").replace("\n...\n", f"\nb0: {bomb}...\n")
            trial(text.encode() + block(GOOD))
        return trial.counts
    test = given(trees, st.just([GOOD]))(tree)
    if what == "headers":
        entry = st.sampled_from(["0", "0", "0", "1", "-1", "2"])
        test = given(st.lists(blocks, min_size=1, max_size=3), entry, edits)(header)
    repeat(test, cases)
    return trial.counts


def repeat(test: Callable[[], None], cases: int) -> None:
    """Try a test of hypothesis so many times, always the same without FUZZ."""
    settings(
        max_examples=cases, derandomize="FUZZ" not in os.environ, database=None, deadline=None,
        print_blob=False, phases=[Phase.generate, Phase.shrink],
        suppress_health_check=list(HealthCheck),
    )(test)()  # fmt: skip


def report(run: Callable[[str, int, Path], dict[str, Any]]) -> None:
    """Do what the command line says, and print counts and the peak of memory in bytes."""
    try:
        counts = run(sys.argv[1], int(sys.argv[2]), Path(sys.argv[3]))
    except BaseException:
        traceback.print_exc()
        sys.exit(1)
    # ru_maxrss would begin at the peak of the process that started this one.
    status = Path("/proc/self/status").read_text()
    peak = 1024 * int(status.partition("VmHWM:")[2].split()[0])
    sys.stdout.write(json.dumps(counts | {"peak": peak}) + "\n")


if __name__ == "__main__":
    report(run)
