"""Odd files, such as people have: what is odd, and what is to come of it.

A case is a change of the files that `simulate` has written (or options for it), and what a
calibration of them shall become. ``roman-dask-l2 simulate --conditions NAME`` makes one,
``roman-dask-l2 demo --odd`` tries all. The odd pixel of most cases is (100, 100) of the full frame.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import asdf
import numpy as np

from ..core.detector import BORDER
from ..core.dq import PIXEL
from ..errors import InputError
from .odd_edits import (
    PIXEL_AT,
    REFERENCE_FLAGS,
    Edit,
    add_null_decay,
    add_reference_dq,
    configure,
    configured,
    cut,
    damage,
    edit_head,
    everywhere,
    link_out,
    make_odd_folder,
    make_old,
    mark_resultant,
    mix_formats,
    name_other_detector,
    name_other_kind,
    nothing,
    retag,
    set_coefficients,
    set_pixel,
    stored,
)
from .settings import CONDITIONS, Simulation
from .simulate import simulate

HALO = 4
"""Pixels around the odd one that it may change: IPC of the ramp and of the flat, 2 each."""


@dataclass(frozen=True)
class Odd:
    """One case, and what it shall become.

    Attributes
    ----------
    what : str
        What is odd.
    edit : callable
        Changes the files of a `Simulation`.
    options : mapping
        For `simulate`, where the light itself is odd.
    config : mapping
        Keys of the configuration that are part of it.
    status : tuple of int
        0 and 2, or one of them: refused is as good where both stand there.
    words : tuple of str
        In the message if it is refused.
    warning : tuple of str
        In a warning if it is calibrated.
    flags : tuple of str
        In `dq` at the odd pixel.
    rate : bool
        The rate at the odd pixel is right within 5 standard deviations, or is DO_NOT_USE.
    same : str
        As ordinary files give it: "all" pixels to the bit; "beyond" the halo of the odd pixel to
        the bit; "close", the median; "" nothing.
    sky : bool
        The sky is subtracted all the same.
    layers : bool
        Make noise layers, and the report of them.
    at : (int, int)
        The odd pixel.
    fresh : bool
        Calibrate it in a process of its own, with threads: what is odd is how files are read.
    """

    what: str
    edit: Edit
    options: Mapping[str, Any] = field(default_factory=dict)
    config: Mapping[str, Any] = field(default_factory=dict)
    status: tuple[int, ...] = (0,)
    words: tuple[str, ...] = ()
    warning: tuple[str, ...] = ()
    flags: tuple[str, ...] = ()
    rate: bool = False
    same: str = ""
    sky: bool = False
    layers: bool = False
    at: tuple[int, int] = PIXEL_AT
    fresh: bool = False


_CELLS = [(y, x) for y in range(20, 256, 31) for x in range(20, 256, 31)]
"""A pixel in each cell of the sky model of side 256."""
_LAYERS = {"LAYER": ["Rz4S2", "PS2"], "TEMP": ".", "SEED": 5, "OUT": "noise.asdf"}
_REGION = "POLYGON ICRS 10.0 1.0 10.1 1.0 10.1 1.1 10.0 1.1"
_UNKNOWN = "roman: !<asdf://stsci.edu/datamodels/roman/tags/wfi_science_raw-9.9.0>"

ODD: dict[str, Odd] = {
    "compressed_zlib": Odd("all files with zlib", stored("zlib"), same="all", fresh=True),
    "compressed_bzp2": Odd("all files with bzp2", stored("bzp2"), same="all", fresh=True),
    "compressed_lz4": Odd("all files with lz4", stored("lz4"), same="all", fresh=True),
    "inline": Odd(
        "flat and gain as text in the tree", stored("inline", ("flat", "gain")), same="close",
        fresh=True,
    ),
    "external": Odd("all arrays in files of their own", stored("external"), same="all", fresh=True),
    "strided": Odd("all arrays with strides", stored("strided"), same="all", fresh=True),
    "quantity": Odd("all references as Quantities", stored("quantity"), same="all", fresh=True),
    "fortran": Odd("all arrays in the order of Fortran", stored("fortran"), same="all", fresh=True),
    "big_endian": Odd("all arrays big-endian", stored("big_endian"), same="all", fresh=True),
    "float64": Odd("all references float64", stored("float64"), same="close", fresh=True),
    "float16": Odd(
        "flat, gain and IPC float16", stored("float16", ("flat", "gain", "ipc4d")), same="close",
        fresh=True,
    ),
    "mixed_formats": Odd("each file stored in another way", mix_formats, same="all", fresh=True),
    "damaged": Odd(
        "gain: zeros inside a zlib block", damage, status=(2,), words=("gain.asdf",), fresh=True
    ),
    "truncated_l1": Odd(
        "L1: its end is missing", cut("l1", 0.6), status=(2,), words=("l1.asdf", "truncated")
    ),
    "truncated_reference": Odd(
        "dark: its end is missing", cut("dark", 0.9), status=(2,), words=("dark.asdf", "truncated")
    ),
    "truncated_tree": Odd(
        "gain: cut off inside its tree", cut("gain", 0.002), status=(2,), words=("gain.asdf",)
    ),
    "gain_zero": Odd(
        "gain 0 at one pixel", set_pixel("gain", "data", 0), flags=("NO_GAIN_VALUE",),
        same="beyond", sky=True, layers=True,
    ),
    "gain_tiny": Odd(
        "gain 1e-30 at one pixel", set_pixel("gain", "data", 1e-30), flags=("NO_GAIN_VALUE",),
        same="beyond", sky=True,
    ),
    "gain_negative": Odd(
        "gain -1 at one pixel", set_pixel("gain", "data", -1), flags=("NO_GAIN_VALUE",),
        same="beyond", sky=True,
    ),
    "gain_zero_cells": Odd(
        "gain 0 at a pixel of each sky cell", set_pixel("gain", "data", 0, _CELLS),
        flags=("NO_GAIN_VALUE",), sky=True, at=_CELLS[10],
    ),
    "flat_infinite": Odd(
        "flat infinite at one pixel", set_pixel("flat", "data", np.inf), flags=("NO_FLAT_FIELD",),
        same="beyond", sky=True, layers=True,
    ),
    "linearity_zero": Odd(
        "all linearity coefficients 0", set_coefficients(dict.fromkeys(range(5), 0.0)),
        flags=("NO_LIN_CORR",), same="beyond",
    ),
    "linearity_flat_range": Odd(
        "Smin = Smax = 6000 DN",
        lambda made: [set_pixel("linearitylegendre", n, 6000)(made) for n in ("Smin", "Smax")][0],
        flags=("NO_LIN_CORR",), same="beyond",
    ),
    "linearity_no_linear_term": Odd(
        "linear coefficient 0", set_coefficients({1: 0.0}), flags=("NO_LIN_CORR",), same="beyond"
    ),
    "linearity_falls": Odd(
        "the linearity curve falls within its range", set_coefficients({2: -2.0}),
        flags=("NO_LIN_CORR",), same="beyond",
    ),
    "resultant_do_not_use": Odd(
        "a resultant off by 300 DN, DO_NOT_USE in resultantdq", mark_resultant("DO_NOT_USE"),
        rate=True, same="beyond",
    ),
    "resultant_dropout": Odd(
        "a resultant off by 300 DN, DROPOUT in resultantdq", mark_resultant("DROPOUT"),
        flags=("DROPOUT",), rate=True, same="beyond",
    ),
    "partial_saturation": Odd(
        "fills up amid the reads of a resultant, SATURATION_BACKUP 0", nothing,
        options={"stars": [(*PIXEL_AT, 6900.0)]}, config={"SATURATION_BACKUP": 0},
        flags=("SATURATED",), rate=True,
    ),
    "reference_dq": Odd(
        "dq in flat, gain and read", add_reference_dq, flags=tuple(REFERENCE_FLAGS.values()),
        same="beyond",
    ),
    "many_resultants": Odd(
        "140 resultants, saturated from 135 on", nothing,
        options={"read_pattern": [[f] for f in range(140)], "stars": [(*PIXEL_AT, 136.0)]},
        flags=("SATURATED",),
    ),
    "sky_order": Odd("SKYORDER 10", configured(SKYORDER=10), status=(2,), words=("SKYORDER",)),
    "other_reftype": Odd(
        "the read noise's file as gain", name_other_kind, status=(2,), words=("CALDIR.gain", "read")
    ),
    "other_detector": Odd(
        "reference files of WFI18 for WFI01", name_other_detector, status=(2,),
        words=("WFI18", "WFI01"),
    ),
    "grism": Odd(
        "an exposure with the grism", nothing, options={"optical_element": "GRISM"},
        status=(0, 2), words=("GRISM",), warning=("GRISM",),
    ),
    "l1_tag_unknown": Odd(
        "L1 of version 9.9.0", retag(_UNKNOWN), status=(2,),
        words=("l1.asdf", "wfi_science_raw-9.9.0"),
    ),
    "l1_tag_none": Odd("L1 without a tag", retag("roman:"), status=(2,), words=("l1.asdf", "tag")),
    "l1_tag_old": Odd(
        "L1 of version 1.0.0", make_old, status=(0, 2), words=("l1.asdf", "wfi_science_raw-1.0.0")
    ),
    "long_name": Odd(
        "OUT of 130 characters", configured(OUT=f"{'n' * 125}.asdf"), status=(0, 2),
        words=("nnnnn.asdf",), same="all",
    ),
    "longest_name": Odd(
        "OUT of 245 bytes", configured(OUT=f"{'n' * 240}.asdf"), status=(0, 2),
        words=("nnnnn.asdf",), same="all",
    ),
    "odd_folder": Odd(
        "OUT with //, #, ? and %20", make_odd_folder, status=(0, 2), words=("OUT",), same="all"
    ),
    "decay_null": Odd(
        "null for the detector in decay_table", add_null_decay, warning=("WFI01",), same="all"
    ),
    "symlink_out": Odd("OUT is a symbolic link", link_out, same="all"),
    "region": Odd(
        "s_region of the L1 is elsewhere",
        lambda made: edit_head(
            made.l1, lambda text: text.replace("s_region: '?'", f"s_region: {_REGION}")
        ),
        same="all",
    ),
    "all_masked": Odd(
        "DO_NOT_USE in the whole mask file", everywhere("mask", "dq", PIXEL["DO_NOT_USE"]),
        flags=("DO_NOT_USE",), layers=True,
    ),
    "all_saturated": Odd(
        "65535 everywhere", everywhere("l1", "data", 65535), flags=("SATURATED",), layers=True
    ),
    "nan_noise": Odd("NaN in the noise file, then a report", nothing, same="all", layers=True),
}  # fmt: skip
"""Name -> case."""


def simulate_odd(
    directory: str | os.PathLike, *, conditions: str | Iterable[str] = "all", **options: Any
) -> Simulation:
    """`simulate`, with names of odd files among the conditions.

    Parameters
    ----------
    directory : path
    conditions : str or iterable of str
        As for `simulate`, or names of `ODD`; names may stand together.
    **options
        As for `simulate`; those of a case come first.

    Raises
    ------
    InputError
        For a name that is not known, or cases that need different exposures.
    """
    names = [conditions] if isinstance(conditions, str) else list(conditions)
    odd = [name for name in names if name in ODD]
    if not odd:
        return simulate(directory, conditions=conditions, **options)
    if options.get("references", "survey") != "survey":
        raise InputError(f"conditions {', '.join(odd)}: are those of the survey's reference files")
    if options.get("cal") is not None:
        raise InputError(f"conditions {', '.join(odd)}: would spoil shared reference files")
    others = [name for name in names if name not in ODD]
    if unknown := set(others) - set(CONDITIONS):
        known = ", ".join([*CONDITIONS, *ODD])
        raise InputError(f"unknown conditions {sorted(unknown)}; known: {known}")
    wanted: dict[str, Any] = {}
    for name in odd:
        for key, value in ODD[name].options.items():
            if wanted.setdefault(key, value) != value:
                raise InputError(f"conditions {', '.join(odd)}: need different exposures")
    made = simulate(directory, conditions=others, **(options | wanted))
    for name in odd:
        apply(name, made)
    return made


def apply(name: str, made: Simulation) -> None:
    """Change the files of a simulation into those of an odd case."""
    case = ODD[name]
    if case.config or case.layers:
        configure(made, **case.config, **({"NOISE": _LAYERS} if case.layers else {}))
    case.edit(made)


def linked(made: Simulation, directory: Path) -> Simulation:
    """The same files under another directory, as hard links (copies where that cannot be)."""
    (directory / "cal").mkdir(parents=True)

    def at(path: Path) -> Path:
        target = directory / path.relative_to(made.directory)
        try:
            os.link(path, target)
        except OSError:
            target.write_bytes(path.read_bytes())
        return target

    caldir = {key: at(path) for key, path in made.caldir.items()}
    return replace(
        made, directory=directory, l1=at(made.l1), caldir=caldir, fitswcs=at(made.fitswcs),
        config=at(made.config), truth=at(made.truth),
    )  # fmt: skip


def truth_at(made: Simulation, place: tuple[int, int]) -> tuple[float, int]:
    """True rate (DN/s), and first saturated resultant (-1: none), of a pixel of the full frame."""
    y, x = place
    with asdf.open(made.truth, memmap=False, lazy_load=False) as file:
        truth = file["truth"]
        rate = float(truth["rate"][y - BORDER, x - BORDER])
        return rate, int(truth["saturated_at"][y, x])


SIMULATED: dict[str, Any] = {"side": 256, "seed": 3, "cosmic_rays": 0, "stars": 0}
"""Options of `simulate_odd` for the exposure that all cases of the demonstration start from."""
