"""R: read noise."""

from __future__ import annotations

from dataclasses import dataclass

from .command import ActsOn, Command, Ramp
from .label_text import LabelText


@dataclass(frozen=True)
class ReadNoise:
    """Arguments of R.

    Attributes
    ----------
    own_ramp : bool
        ``a``: the noise is added to the exposure's own ramp, not to the dark.
    clip : float or None
        ``z<q>``: the noise is clipped to its median +- q sigma; None leaves it as it is.
    """

    own_ramp: bool = False
    clip: float | None = None


def parse(text: LabelText) -> ReadNoise:
    own_ramp, clip = False, None
    while argument := text.argument("R", "az"):
        if argument == "a":
            own_ramp = True
        else:
            clip = text.number("z")
    return ReadNoise(own_ramp, clip)


def ramp(argument: ReadNoise) -> Ramp:
    return "own" if argument.own_ramp else "dark"


PINK = "read.anc.U_PINK", "read.anc.C_PINK"
"""Amplitudes of the 1/f noise, which the observatory's files do not have."""


def inputs(argument: ReadNoise) -> tuple[str, ...]:
    if argument.own_ramp:
        return ("read.data",)
    return ("dark.data", "read.data", "read.resetnoise", *PINK)


def clips(argument: ReadNoise) -> bool:
    return argument.clip is not None


command = Command(
    letter="R",
    name="read",
    grammar='"R" { "a" | "z" number }',
    acts_on=ActsOn.RAMP,
    parse=parse,
    ramp=ramp,
    inputs=inputs,
    wishes=("read.resetnoise", *PINK),
    clips=clips,
    forms=(
        ("`R`", "read noise: white, reset and 1/f noise, put into a ramp of the dark"),
        ("`Ra`", "the same, put into the exposure's own ramp"),
        (
            "`Rz<q>`",
            "the same as `R` (or `Ra`), clipped to median ± $q$ sigma, sigma = IQR / 1.34896",
        ),
    ),
    streams=(
        ("white", "white noise of the pixels", "readout channel"),
        ("reset", "reset noise of the reference pixels, shared by all resultants", "0"),
        ("pink_common", "1/f noise common to the channels", "0"),
        ("pink_channel", "1/f noise of one channel", "readout channel"),
        ("amp33_white", "white noise of the reference output", "0"),
        ("amp33_pink", "1/f noise of the reference output alone", "0"),
    ),
    report="R err² - var_poisson",
    report_formula=(
        "P(f) = s<sup>2</sup> B(f) [2 + 2q/σ<sup>2</sup> + "
        "(U<sup>2</sup> + C<sup>2</sup>)/σ<sup>2</sup> p(f)]",
        "s² = κ² (err² - var_poisson), B the mean square gain of the correction of "
        "inter-pixel capacitance, U and C the 1/f noise of a channel's own and common to all "
        "(DN), σ the read noise (DN), q what rounding to integers adds (DN²), p the "
        "periodogram of 1/f noise of unit variance per unit of ln f.",
    ),
)
