"""Micro-suite: nanoseconds per pixel of every kernel on one tile of 64 x 4096 x 8.

    make bench-kernels
    make bench-kernels ARGS="-k ramp_fit --benchmark-autosave"
    make bench-kernels ARGS=--benchmark-compare

Times are reported, never held against a limit: they depend on the machine and on what else it
does. Each kernel gets what it gets in a run: the steps before it are run on a simulated exposure
with stars, cosmic rays, saturation and bad pixels.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import dask
import numpy as np
import pytest

from roman_dask_l2.config.recipe import load_recipe
from roman_dask_l2.core.detector import BORDER, CHANNEL_WIDTH, Grid, Window
from roman_dask_l2.core.dq import GROUP
from roman_dask_l2.core.exposure import Exposure
from roman_dask_l2.core.step import Tile, accepted
from roman_dask_l2.engine import graph
from roman_dask_l2.io.references import ARRAYS
from roman_dask_l2.noise.pearson import pearson_noise
from roman_dask_l2.noise.poisson import poisson_noise
from roman_dask_l2.noise.read_noise import Border, PlaneNoise, common_series, noisy_amp33
from roman_dask_l2.noise.streams import DrawKind, Streams
from roman_dask_l2.steps.linearity_polynomial import PolynomialParams, linearise_reads
from roman_dask_l2.steps.ramp_weights import fits
from roman_dask_l2.steps.sky import sky_model

pytestmark = pytest.mark.kernels

SMALL, SIDE, ROWS = 1024, 4096, 64
WINDOW = Window(SIDE // 2, SIDE // 2 + ROWS, 0, SIDE)
ABSENT = ("wfi18_transient",)
"""Steps of the recipes that do not apply to the exposure: only detector WFI18 has the transient."""


def wide(read: Any) -> np.ndarray:
    """Rows of a flight detector put together from rows of a small one.

    A full row is what a tile has, and its length decides what stays in the processor's caches. The
    border stays where it is; between, active pixels of other rows follow one another.
    """
    active = SMALL - 2 * BORDER
    bands = [read(Window(y, y + ROWS, 0, SMALL)) for y in (128, 352, 576, 800, 192)]
    left, rest = bands[0][..., : BORDER + active], SIDE - 4 * active - 2 * BORDER
    middle = [band[..., BORDER : BORDER + active] for band in bands[1:4]]
    end = bands[4][..., BORDER : BORDER + rest], bands[0][..., -BORDER:]
    return np.ascontiguousarray(np.concatenate([left, *middle, *end], axis=-1))


def widened(value: Any) -> Any:
    """What a reduction has found, for a detector four times as wide."""
    if isinstance(value, np.ndarray) and value.shape[-1:] in ((SMALL,), (SMALL // CHANNEL_WIDTH,)):
        return np.tile(value, SIDE // SMALL)
    return value


class Chain:
    """A recipe on the tile: what every kernel is called with, and all variables at the end."""

    def __init__(self, steps: list, inputs: Any) -> None:
        self.exposure = dataclasses.replace(inputs.exposure, side=SIDE)
        self.tile = Tile(WINDOW, SIDE)
        self.inputs = inputs
        lazy = graph.build(steps, inputs, Grid(SMALL, (128, SMALL)), ["data"])
        (self.measured,) = dask.compute(lazy.measured)
        self.have: dict[str, np.ndarray] = {}
        self.calls: dict[str, tuple[Any, dict[str, Any]]] = {}
        self.partials: dict[str, tuple[Any, dict[str, Any]]] = {}
        for bound in steps:
            self._run(bound)

    def source(self, name: str) -> Any:
        """A reference array on the tile, or what stands in the tree."""
        source = self.inputs.sources[name]
        image = name not in ARRAYS or ARRAYS[name].dims
        return wide(source.read) if image else source.read()

    def _run(self, bound: Any) -> None:
        step, reduction = bound.step, bound.step.reduction
        measured = self.measured.get(bound.name, {})
        context = {
            "tile": self.tile,
            "exposure": self.exposure,
            "params": bound.params,
            "measured": {k: widened(v) for k, v in measured.items()},
        }
        if reduction is not None and not reduction.thin:
            given = {name: self.have[name] for name in reduction.reads_for(bound.params)}
            given |= accepted(reduction.partial, context)
            self.partials[bound.name] = reduction.partial, given
        given = {name: self.have[name] for name in step.reads}
        given |= {name: self.have.get(name) for name in step.optional_reads}
        for keyword, name in step.references_for(bound.params).items():
            if self.inputs.available(name):
                given[keyword] = self.source(name)
        self.calls[bound.name] = step.run, {"inputs": given, "context": context}
        results = step.run(given, context)
        results = results if isinstance(results, tuple) else (results,)
        self.have |= dict(zip(step.writes, results, strict=True))


@pytest.fixture(scope="module")
def simulation(simulated):
    return simulated(side=SMALL, conditions="all", dark_decay=True)


@pytest.fixture(scope="module")
def chains(simulation, pipeline):
    """Chains of both recipes, made when first asked for."""
    made: dict[str, Chain] = {}

    def chain(recipe: str) -> Chain:
        if recipe not in made:
            made[recipe] = Chain(*pipeline(simulation, recipe))
        return made[recipe]

    return chain


def names(recipe: str) -> list[str]:
    return [b.name for b in load_recipe(recipe).steps if b.name not in ABSENT]


DEFAULT, COMPATIBLE = "l1_to_l2", "romanimpreprocess_1.0"
DIFFERENT = ("refpix", "ramp_fit", "dark_rate", "flat")
"""Steps that the bit-compatible recipe has with other options, or alone."""


@pytest.mark.parametrize("name", [name for name in names(DEFAULT) if name != "medsky"])
def test_step(chains, per_pixel, name):
    kernel, given = chains(DEFAULT).calls[name]
    per_pixel(ROWS * SIDE, kernel, **given)


@pytest.mark.parametrize("name", DIFFERENT)
def test_compatible(chains, per_pixel, name):
    kernel, given = chains(COMPATIBLE).calls[name]
    per_pixel(ROWS * SIDE, kernel, **given)


@pytest.mark.parametrize("name", ["medsky", "sky"])
def test_measuring(chains, per_pixel, name):
    partial, given = chains(DEFAULT).partials[name]
    per_pixel(ROWS * SIDE, partial, **given)


@pytest.mark.parametrize("tables", ["no tables", "tables"])
def test_linearity_polynomial(per_pixel, tables):
    """8 resultants of 35 reads, polynomials of 11 coefficients, some pixels saturated."""
    rng = np.random.default_rng(5)
    ends = np.cumsum([0, 1, 1, 2, 4, 8, 8, 8, 3])
    pattern = tuple(tuple(range(a + 1, b + 1)) for a, b in zip(ends, ends[1:], strict=False))
    ramp = 5000 + np.cumsum(rng.uniform(0, 300, (8, ROWS, SIDE)), axis=0)
    ramp[:, rng.random((ROWS, SIDE)) < 0.003] *= 8
    flags = np.zeros((ROWS, SIDE), np.uint32)
    scale = np.array([1, 1, *(0.1 * 1e-5 ** np.arange(1.0, 10.0))])[:, None, None]
    coeffs, inverse = (
        (scale * rng.normal(1, 0.01, (11, ROWS, SIDE))).astype(np.float32) for _ in range(2)
    )
    given: dict[str, Any] = {}
    if tables == "tables":
        given["inl_table"] = rng.normal(0, 1, (SIDE // CHANNEL_WIDTH, 65536))
        given["inl_value"] = np.arange(65536).astype(np.uint16)
    given |= {
        "tile": Tile(WINDOW, SIDE),
        "exposure": Exposure(SIDE, pattern, 3.04),
        "params": PolynomialParams(),
    }
    groupdq = np.where(ramp > 60000, np.uint8(GROUP["SATURATED"]), np.uint8(0))
    arrays = ramp.astype(np.float32), groupdq, flags, coeffs, flags, inverse
    per_pixel(ROWS * SIDE, linearise_reads, *arrays, **given)


# -- noise ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def streams():
    return Streams(15000, "Rz4S2C1", 0)


@pytest.fixture(scope="module")
def noise(chains):
    """``noise(name)``: an input of the noise on the full detector (a plane, or a number)."""
    sources = chains(DEFAULT).inputs.sources

    def given(name: str, plane: int | None = None) -> Any:
        value = sources[name].read()
        if not isinstance(value, np.ndarray):
            return value
        value = value if plane is None else value[plane]
        return np.tile(value, [SIDE // SMALL, SIDE // value.shape[1] if value.shape[1] == SMALL
                               else 1])  # fmt: skip

    return given


PLANE = 5
"""The resultant that is made, of 6 reads."""


def test_common_series(per_pixel, streams):
    """Of one resultant, in pixels of the frame (the series has an 32nd of them)."""
    per_pixel(SIDE**2, common_series, streams, PLANE, SIDE)


def border_of(plane):
    """The reference pixels of a plane (N, N)."""
    rows = np.concatenate([plane[:BORDER], plane[-BORDER:]])
    columns = np.concatenate([plane[:, :BORDER], plane[:, -BORDER:]], axis=1)
    return Border(rows.astype(np.float32), columns.astype(np.float32))


def test_plane_noise(per_pixel, noise, streams, chains):
    """One of 8 resultants: times are per pixel of its plane."""
    plane = noise("dark.data", PLANE).astype(np.uint16)
    made = PlaneNoise(
        border_of(noise("dark.data", PLANE)),
        border_of(noise("read.resetnoise")),
        float(noise("read.anc.C_PINK")),
        float(noise("read.anc.U_PINK")),
        float(chains(DEFAULT).exposure.n_reads[PLANE]),
        common_series(streams, PLANE, SIDE),
        streams,
        PLANE,
    )
    per_pixel(SIDE**2, made.add, plane, noise("read.data"))


def test_noisy_amp33(per_pixel, noise, streams, chains):
    """One of 8 resultants, per pixel of the frame."""
    arguments = [
        *(noise(f"read.amp33.{name}") for name in ("med", "std", "M_PINK", "RU_PINK")),
        float(noise("read.anc.C_PINK")),
        float(chains(DEFAULT).exposure.n_reads[PLANE]),
        common_series(streams, PLANE, SIDE),
    ]
    per_pixel(SIDE**2, noisy_amp33, *arguments, streams, PLANE)


def blocks(image: np.ndarray) -> list[np.ndarray]:
    """The tile in blocks of 128 x 128 pixels, as they are drawn."""
    pieces = np.split(image, SIDE // CHANNEL_WIDTH, axis=1)
    return [np.vstack(pieces[i : i + 2]) for i in range(0, len(pieces), 2)]


@pytest.fixture(scope="module")
def draw(chains, streams):
    """``draw(function, what, level)``: P or O on all blocks of the tile."""
    chain = chains(DEFAULT)
    kernel, given = chain.calls["ramp_fit"]
    weights = np.array([fit.k for fit in fits(chain.exposure, given["params"])], float)
    last = chain.have["endslice"].astype(np.int64)
    ends = blocks(np.where(last >= 0, last + 1, chain.exposure.n_resultants))
    gains = blocks(given["gain"])

    def all_blocks(function: Any, what: DrawKind, levels: list[np.ndarray]) -> None:
        for i, part in enumerate(zip(levels, gains, ends, strict=True)):
            function(streams(what, None, i), *part, weights, chain.exposure)

    return all_blocks


@pytest.mark.parametrize("light", ["background", "all light"])
def test_poisson(per_pixel, draw, chains, light):
    chain = chains(DEFAULT)
    level = chain.have["rate"]
    if light == "background":
        coefs = chain.measured["sky"]["coefs"]
        level = sky_model(coefs, 2, WINDOW, SIDE).astype(np.float32)
    per_pixel(ROWS * SIDE, draw, poisson_noise, DrawKind.POISSON, blocks(level))


def test_pearson(per_pixel, draw, chains):
    per_pixel(
        ROWS * SIDE, draw, pearson_noise, DrawKind.PEARSON, blocks(chains(DEFAULT).have["rate"])
    )
