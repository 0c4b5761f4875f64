"""Edits of the files of an exposure: what they do, and hypothesis strategies that draw them.

An edit is a tuple of plain values, ``(operation, file, ...)``, so that a failing one can be read,
and copied into a test.
"""

from __future__ import annotations

import copy
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from asdf_files import AsdfFile, as_node
from hypothesis import strategies as st

from roman_dask_l2.config.model import blocks
from roman_dask_l2.io.references import ARRAYS
from roman_dask_l2.simulation.settings import Simulation

NDARRAY = "tag:stsci.edu:asdf/core/ndarray-1.1.0"
QUANTITY = "tag:stsci.edu:asdf/unit/quantity-1.2.0"
UNIT = "tag:stsci.edu:asdf/unit/unit-1.0.0"
SCALARS = [
    None, True, False, 0, 1, -1, 2, 7, 255, 256, 2**31, -(2**31), 2**63, 2**64, 10**30, 0.0,
    0.5, -0.5, 1e-30, 1e30, 1e300, math.nan, math.inf, -math.inf, "", " ", "x", "nan", "1",
    "None", "WFI18", "WFI1", "wfi01", "F999", "DARK", "a/b", "l1.asdf", ".", "/", "~", "$HOME",
    "$NOTHING", "é\u2028", "n" * 300,
]  # fmt: skip
CONTAINERS = [
    [], [None], [0], [1, 2, 3], [[]], [[0]], ["x"], [1e30], {}, {"a": 1}, {"data": None}, {1: 2},
    [[[[0]]]], {"value": 1, "unit": "s"}, {"data": [1.0, 2.0]},
]  # fmt: skip
PATTERNS = [
    [], [[]], [[0], [1], [2], [3], [4], [5], [6], []], [[f] for f in range(7)],
    [[f] for f in range(9)], [[f] for f in range(8)], [[f] for f in range(8, 0, -1)], [[0]] * 8,
    [[0, 1], [1, 2], [3], [4], [5], [6], [7], [8]], [[f / 2] for f in range(8)],
    [[-f] for f in range(8)], [[f - 3] for f in range(8)], [[10**9 * f] for f in range(1, 9)],
    [[2**40 * f] for f in range(8)], [[str(f)] for f in range(8)], list(range(8)), "01234567",
    [[[f]] for f in range(8)], [[None]] * 8, [[True], *([f] for f in range(2, 9))],
    [[math.nan]] * 8, [[1], *([f] for f in range(2, 9))], [[5], [3], [8], [1], [2], [9], [7], [6]],
    {"a": [0]}, [list(range(1000 * i, 1000 * i + 1000)) for i in range(8)],
]  # fmt: skip
TIMES = [
    0,
    -1,
    0.0,
    1e-30,
    1e30,
    1e300,
    math.nan,
    math.inf,
    "3.04",
    "x",
    None,
    [3.04],
    True,
    10**400,
]
DTYPES = [
    "<f2", "<f4", "<f8", ">f4", ">f8", "|u1", "<u2", ">u2", "<u4", "<u8", "|i1", "<i2", ">i4",
    "<i8", "|b1", "<c8",
]  # fmt: skip
STORED = ["", "", "zlib", "lz4", "fortran", "strided", "bzp2"]
VALUES = [math.nan, math.inf, -math.inf, 0, -1, 1, 1e-30, 1e30, -1e30, 65535, 2**32 - 1, 3.4e38]
PLACES = ["one", "two", "row", "column", "channel", "corner", "half", "all but one", "all"]
SHAPES = [
    "no first", "no last", "extra plane", "extra row", "transposed", "flat", "empty", "scalar",
    "active", "one pixel", "extra axis",
]  # fmt: skip
UNITS = ["DN", "electron", "s", "", "furlong", "DN / s", 7, None]
NODE_KEYS = ["source", "shape", "datatype", "byteorder", "offset", "strides", "mask", "data"]
NODE_VALUES = [
    None, 0, 1, -1, -2, 5, 99, 2**40, "x", "float32", "int7", "complex128", "bool8", ["ascii",
    5], "big", [], [0], [256], [256, 256], [512, 256], [-1, 256], ["*", 256], [4, 4], [1024,
    4], [0, 0], [-4, -4], [1.5, 2], "http://localhost:1/x.asdf", "other.asdf", "dark.asdf", {},
    True, [[1, 2], [3, 4]], [{"name": "a", "datatype": "float32"}],
]  # fmt: skip
FILES = ["l1", "dark", "saturation", "flat", "ipc4d", "mask", "gain", "linearitylegendre", "read",
         "biascorr", "dark_decay"]  # fmt: skip


class Exposure:
    """A simulated exposure taken apart; `make` writes it with edits.

    Parameters
    ----------
    made : Simulation
    folder : Path
        Where edited exposures are written; kept between cases but for what was edited.
    """

    def __init__(self, made: Simulation, folder: Path) -> None:
        self.made, self.folder = made, folder
        self.files = {"l1": AsdfFile(made.l1)}
        self.files |= {key: AsdfFile(path) for key, path in made.caldir.items()}
        self.paths = {"l1": made.l1, **made.caldir}
        self.config: dict[str, Any] = yaml.safe_load(made.config.read_text())
        self.config["FITSOUT"] = False
        self.config["NOISE"] = {
            "LAYER": ["RP", "Rz4S2"], "TEMP": "temp", "SEED": 1, "OUT": "noise.asdf"
        }  # fmt: skip
        self.absolute = {  # the same with absolute paths
            key: str(folder / value) if key in ("IN", "OUT", "FITSWCS") else value
            for key, value in self.config.items()
        }
        for block in ("CALDIR", "NOISE"):
            self.absolute[block] = {
                key: str(folder / value) if block == "CALDIR" or key in ("TEMP", "OUT") else value
                for key, value in self.config[block].items()
            }
        self._dirty: set[Path] = set()
        shutil.copytree(made.directory, folder, ignore=shutil.ignore_patterns("truth*"))
        (folder / "temp").mkdir()

    def make(self, edits: list[tuple]) -> Path:
        """Write the files that the edits change; the configuration."""
        for path in self._dirty:
            target = self.folder / path.relative_to(self.made.directory)
            if target.is_dir():
                target.rmdir()
            target.unlink(missing_ok=True)
            shutil.copyfile(path, target)
        self._dirty.clear()
        config = copy.deepcopy(self.config)
        text: list[tuple] = []
        changed: dict[str, list[tuple]] = {}
        for edit in edits:
            if edit[0] == "config":
                edit_config(config, *edit[1:])
            elif edit[0] == "config text":
                text.append(edit)
            elif edit[1] in self.files:
                changed.setdefault(edit[1], []).append(edit)
        for key, some in changed.items():
            self._write(key, some)
        dumped = yaml.dump(config, Dumper=yaml.CSafeDumper, sort_keys=False, allow_unicode=True)
        written = dumped.encode("utf-8", "surrogatepass")
        for _, at, data in text:
            i = at % (len(written) + 1)
            written = written[:i] + data + written[i + len(data) :]
        path = self.folder / "config.yaml"
        path.write_bytes(written)
        return path

    def _write(self, key: str, edits: list[tuple]) -> None:
        path = self.folder / self.paths[key].relative_to(self.made.directory)
        self._dirty.add(self.paths[key])
        file = self.files[key].copy()
        late = [edit for edit in edits if edit[0] in ("cut", "flip", "tree byte", "gone")]
        for edit in edits:
            if edit not in late:
                apply(file, self.files[key], edit)
        data = file.tobytes()
        for edit in late:
            if edit[0] == "gone":
                path.unlink(missing_ok=True)
                if edit[2] == "folder":
                    path.mkdir()
                if edit[2] in ("missing", "folder"):
                    return
                data = b"" if edit[2] == "empty" else b"SIMPLE  =                    T" * 100
            elif edit[0] == "cut":
                data = data[: int(len(data) * edit[2])]
            elif data:
                end = max(data.find(b"\n...\n"), 1)
                i = edit[2] % (end if edit[0] == "tree byte" else len(data))
                data = data[:i] + edit[3] + data[i + len(edit[3]) :]
        path.unlink(missing_ok=True)
        path.write_bytes(data)


def edit_config(config: dict[str, Any], key: tuple[str, ...], what: str, value: Any = None) -> None:
    """Set, remove or add a key of a configuration."""
    parent: Any = config
    for name in key[:-1]:
        parent = parent.setdefault(name, {}) if isinstance(parent, dict) else None
    if not isinstance(parent, dict):
        return
    if what == "remove":
        parent.pop(key[-1], None)
    else:
        parent[key[-1]] = value


def apply(file: AsdfFile, whole: AsdfFile, edit: tuple) -> None:
    """One edit of a file's tree or of an array; `whole` is the file before all edits."""
    match edit:
        case ("set", _, key, value):
            file.set(key, as_node(value))
        case ("remove", _, key):
            file.set(key, None)
        case ("tag", _, tag):
            node = file.node("roman")
            if node is not None:
                node.tag = tag
        case ("type", _, key, dtype, how):
            with np.errstate(all="ignore"):
                file.put(key, whole.array(*key).astype(dtype), how)
        case ("shape", _, key, how):
            file.put(key, reshaped(whole.array(*key), how))
        case ("values", _, key, places):
            array = whole.array(*key).copy()
            for where, value in places:
                put(array, where, value)
            file.put(key, array)
        case ("quantity", _, key, unit) if file.node(*key) is not None:
            inner, node = file.node(*key), as_node({"value": None, "unit": unit}, QUANTITY)
            node.value = [(k, inner if k.value == "value" else v) for k, v in node.value]
            if isinstance(unit, str):
                node.value[1][1].tag = UNIT
            file.set(key, node)
        case ("inline", _, key, data):
            file.set(key, as_node({"data": data, "datatype": "float32"}, NDARRAY))
        case ("node", _, key, name, value):
            file.set((*key, name), as_node(value))
        case ("quantity", *_):
            pass
        case _:
            raise ValueError(f"unknown edit {edit}")


def reshaped(array: np.ndarray, how: str) -> np.ndarray:
    """An array of another shape."""
    side = array.shape[-1]
    match how:
        case "no first":
            return array[1:]
        case "no last":
            return array[..., :-1]
        case "extra plane":
            return np.concatenate([array[:1], array])
        case "extra row":
            return np.concatenate([array, array[..., :1, :]], axis=-2)
        case "transposed":
            return array.T
        case "flat":
            return array.reshape(-1)
        case "empty":
            return array[:0]
        case "scalar":
            return array.reshape(-1)[0].reshape(())
        case "active":
            return array[..., 4 : side - 4, 4 : side - 4]
        case "one pixel":
            return array[..., :1, :1]
        case _:
            return array[None]


def put(array: np.ndarray, where: str, value: float) -> None:
    """Set some pixels; integers take the nearest value that they can hold."""
    if array.dtype.kind in "iu":
        info = np.iinfo(array.dtype)
        value = 0 if math.isnan(value) else int(max(min(value, info.max), info.min))
    cut = {
        "one": np.s_[..., 100, 100], "two": np.s_[..., 60:62, 127], "row": np.s_[..., 50, :],
        "column": np.s_[..., 70], "channel": np.s_[..., :128], "corner": np.s_[..., :9, :9],
        "half": np.s_[..., ::2, :], "all": np.s_[...], "all but one": np.s_[...],
    }[where]  # fmt: skip
    kept = array[..., 30, 30].copy()
    with np.errstate(all="ignore"):
        array[cut] = value
    if where == "all but one":
        array[..., 30, 30] = kept


# -- strategies -----------------------------------------------------------------------------------

values = st.one_of(
    st.sampled_from([*SCALARS, *CONTAINERS]),
    st.integers(),
    st.floats(),
    st.text(max_size=20),
)


def trees(exposure: Exposure, key: str) -> st.SearchStrategy:
    """Edits of the tree of a file."""
    paths = st.sampled_from(exposure.files[key].paths())
    arrays = st.sampled_from(array_keys(exposure, key))
    extra = st.builds(lambda path, name: (*path, name), paths, st.sampled_from(["extra", "data"]))
    choices = [
        st.tuples(st.just("set"), st.just(key), paths, values),
        st.tuples(st.just("set"), st.just(key), extra, values),
        st.tuples(st.just("remove"), st.just(key), paths),
    ]
    if array_keys(exposure, key):
        choices += [
            st.tuples(st.just("type"), st.just(key), arrays, st.sampled_from(DTYPES),
                      st.sampled_from(STORED)),
            st.tuples(st.just("shape"), st.just(key), arrays, st.sampled_from(SHAPES)),
            st.tuples(st.just("quantity"), st.just(key), arrays, st.sampled_from(UNITS)),
            st.tuples(st.just("inline"), st.just(key), arrays, st.sampled_from(CONTAINERS)),
            st.tuples(st.just("node"), st.just(key), arrays, st.sampled_from(NODE_KEYS),
                      st.sampled_from(NODE_VALUES)),
        ]  # fmt: skip
    if key == "l1":
        meta = ("roman", "meta")
        facts = {"read_pattern": PATTERNS, "frame_time": TIMES}
        choices += [
            st.tuples(st.just("set"), st.just(key), st.just((*meta, "exposure", name)),
                      st.sampled_from(some))
            for name, some in facts.items()
        ]  # fmt: skip
        windows = [f"window_{axis}{end}" for axis in "xy" for end in ("start", "stop")]
        names = [("guide_star", name) for name in windows]
        names += [
            ("instrument", n) for n in ("detector", "optical_element", "data_encoding_offset")
        ]
        choices.append(
            st.tuples(st.just("set"), st.just(key),
                      st.sampled_from([(*meta, *name) for name in names]), values)
        )  # fmt: skip
        tags = "asdf://stsci.edu/datamodels/roman/tags/"
        tags_ = [f"{tags}wfi_science_raw-{v}" for v in ("9.9.0", "1.0.0", "1.1.0", "2.0.0", "x")]
        tags_ += [f"{tags}wfi_image-1.0.0", f"{tags}nothing-1.0.0", "!x", "tag:yaml.org,2002:map"]
        choices.append(st.tuples(st.just("tag"), st.just(key), st.sampled_from(tags_)))
    return st.one_of(choices)


def array_keys(exposure: Exposure, key: str) -> list[tuple[str, ...]]:
    """Where the arrays of a file are."""
    file = exposure.files[key]
    return [path for path in file.paths() if "ndarray" in file.node(*path).tag]


def damages(key: str) -> st.SearchStrategy:
    """Edits of the bytes of a file."""
    some = st.binary(min_size=1, max_size=4)
    anywhere = st.integers(0, 1 << 22)
    how = st.sampled_from(["missing", "empty", "folder", "FITS"])
    return st.one_of(
        st.tuples(st.just("cut"), st.just(key), st.floats(0, 1)),
        st.tuples(st.just("tree byte"), st.just(key), anywhere, some),
        st.tuples(st.just("tree byte"), st.just(key), anywhere, some),
        st.tuples(st.just("flip"), st.just(key), anywhere, some),
        st.tuples(st.just("gone"), st.just(key), how),
    )


def configurations(exposure: Exposure) -> st.SearchStrategy:
    """Edits of the configuration."""
    keys: list[tuple[str, ...]] = []
    for block, model in blocks().items():
        keys += [(block,)] if block else []
        keys += [(block, name) if block else (name,) for name in model.model_fields]
    known, some = st.sampled_from(keys), st.sampled_from([*SCALARS, *CONTAINERS])
    labels = st.lists(st.text("RPOSCabzr0123456789. ", max_size=8), max_size=3)
    masks = st.dictionaries(st.sampled_from(["HOT", "hot", "JUMP_DET", "", "X"]), values)
    unknown = st.builds(lambda key, end: (*key[:-1], key[-1] + end), known, st.sampled_from("SX "))
    return st.one_of(
        st.tuples(st.just("config"), known, st.just("set"), st.one_of(some, values)),
        st.tuples(st.just("config"), known, st.just("set"), st.one_of(some, values)),
        st.tuples(st.just("config"), known, st.just("remove")),
        st.tuples(st.just("config"), unknown, st.just("set"), some),
        st.tuples(st.just("config"), st.just(("NOISE", "LAYER")), st.just("set"), labels),
        st.tuples(st.just("config"), st.just(("MASK",)), st.just("set"), masks),
        st.tuples(st.just("config text"), st.integers(0, 2000), st.binary(min_size=1, max_size=3)),
    )


def pixels(exposure: Exposure) -> st.SearchStrategy:
    """Edits of values of arrays, and of how they are stored: most of them can be calibrated."""
    known = {tuple(name.split(".")) for name in ARRAYS}
    keys = [
        (key, path) for key in FILES if key in exposure.files for path in array_keys(exposure, key)
    ]
    assert len(known & {(key, *path[1:]) for key, path in keys}) > 15
    which, where = st.sampled_from(keys), st.sampled_from(PLACES)
    places = st.lists(st.tuples(where, st.sampled_from(VALUES)), min_size=1, max_size=2)

    def build(name: str, *parts: st.SearchStrategy) -> st.SearchStrategy:
        return st.builds(lambda at, *rest: (name, *at, *rest), which, *parts)

    return st.one_of(
        build("values", places),
        build("values", places),
        build("type", st.sampled_from(DTYPES), st.sampled_from(STORED)),
        build("quantity", st.sampled_from(UNITS[:4])),
        st.builds(lambda at: ("remove", *at), which),
    )


def settings_that_run() -> st.SearchStrategy:
    """Edits of the configuration that mostly can be run."""
    positive = st.sampled_from([1e-30, 1e-3, 0.5, 1.0, 50.0, 1e3, 1e30, 1e300])
    choices: list[tuple[tuple[str, ...], st.SearchStrategy]] = [
        (("SKYORDER",), st.integers(0, 12)),
        (("SATURATION_BACKUP",), st.sampled_from([0, 1, 2, 7, 8, 10**6])),
        (("EXCLUDE_FIRST",), st.booleans()),
        (("SLICEOUT",), st.booleans()),
        (("FITSOUT",), st.booleans()),
        (("FITSWCS_ORIGIN",), st.sampled_from([0, 1])),
        (("GRAPH",), st.sampled_from(["l1_to_l2", "romanimpreprocess_1.0"])),
        (("correct_wfi18_transient",), st.booleans()),
        (("wfi18_mask_rows",), st.booleans()),
        (("MASK",), st.just({})),
        *[(("RAMP_OPT_PARS", name), positive) for name in ("slope", "gain", "sigma_read")],
        *[(("JUMP_DETECT_PARS", f"{a}thresh{b}"), positive) for a in "IS" for b in "AB"],
        *[(("CALDIR", key), st.none()) for key in ("ipc4d", "mask", "biascorr", "dark_decay")],
    ]
    return st.one_of(
        [st.tuples(st.just("config"), st.just(k), st.just("set"), v) for k, v in choices]
    )


def exposures(exposure: Exposure) -> st.SearchStrategy:
    """Edits of what the exposure says of itself that mostly can be run."""
    facts: dict[str, list[Any]] = {"read_pattern": PATTERNS, "frame_time": TIMES}
    windows = [
        ("roman", "meta", "guide_star", f"window_{axis}{end}")
        for axis in "xy"
        for end in ("start", "stop")
    ]
    numbers = st.one_of(st.sampled_from([-5, 0, 3, 4, 100, 120, 252, 256, 300, 10**9]), values)
    several = st.tuples(numbers, numbers, numbers, numbers)
    return st.one_of(
        [
            st.tuples(
                st.just("set"),
                st.just("l1"),
                st.just(("roman", "meta", "exposure", name)),
                st.sampled_from(some),
            )
            for name, some in facts.items()
        ]
        + [
            st.builds(
                lambda four: (
                    "all",
                    [("set", "l1", w, v) for w, v in zip(windows, four, strict=True)],
                ),
                several,
            ),
            st.tuples(st.just("set"), st.just("l1"), st.just(("roman", "resultantdq")), values),
        ]
    )


def flattened(edits: list[tuple]) -> list[tuple]:
    """Edits that belong together, one after another."""
    return [one for edit in edits for one in (edit[1] if edit[0] == "all" else [edit])]
