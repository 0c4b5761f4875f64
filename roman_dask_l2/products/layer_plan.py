"""The Dask tasks of noise layers."""

from __future__ import annotations

import dataclasses
import uuid
from collections.abc import Sequence
from typing import Any

import numpy as np
from dask.delayed import Delayed

from ..config.noise_labels import Layer
from ..core.detector import CHANNEL_WIDTH, Grid
from ..core.step import BoundStep
from ..engine import graph, plan, tasks
from ..engine.progress import Stage
from ..engine.schedulers import in_flight
from ..errors import InputError
from ..io.arrays import FileArray, Placed
from ..io.blocks import Block
from ..io.layout import Layout
from ..io.references import Inputs
from ..io.spill import LAYERS_IN_FLIGHT, STRIP, STRIP_ROWS, Spilled, TempStore
from ..noise.streams import Streams
from ..steps.ramp_params import RampFitParams
from ..steps.ramp_weights import fits
from .job import Job
from .layer_sum import finish_layer
from .layer_tasks import (
    DarkRamp,
    NoiseStrips,
    PhotonNoiseInputs,
    Quiet,
    UsableFlags,
    fit_background,
    write_base_ramp,
    write_noisy_plane,
    write_photon_noise,
    write_read_noise,
)

# -- the graph -----------------------------------------------------------------------------------


class LayerPlan:
    """Builds the tasks of the layers, one after the other."""

    def __init__(
        self,
        job: Job,
        l2: Layout,
        grid: Grid,
        store: TempStore,
        per_step: bool,
        planes: list[list[Block]],
    ) -> None:
        self._planes = planes
        # Tasks of a plan that has failed may still be at work.
        self._token = uuid.uuid4().hex[:8]
        self._job, self._grid, self._store, self._per_step = job, grid, store, per_step
        self._exposure = job.exposure
        n = self._exposure.side
        self._l2 = {
            name: Placed(_found(l2, *key), n, dtype)
            for name, key, dtype in (
                ("data", ("roman", "data"), "float32"),
                ("data_withsky", ("roman", "data_withsky"), "float32"),
                ("endslice", ("processinfo", "endslice"), "int16"),
                ("excluded", ("processinfo", "excluded"), "uint8"),
                ("dq", ("roman", "dq"), "uint32"),
            )
            if l2.array(*key) is not None
        }
        # Which pixels statistics and fits leave out; None: none.
        every = getattr(job.params("sky"), "every_pixel", False)
        self._flags = None if every else self._l2["dq"]
        noise = job.config.NOISE
        assert noise is not None
        self._seed = noise.SEED
        self._finished: list[Delayed] = []
        self._base: tuple[Spilled, Delayed] | None = None
        self._strips: dict[bool, tuple[NoiseStrips, list[Delayed]]] = {}
        self._read_noise: tuple[Spilled, Delayed] | None = None
        self.stages: list[Stage] = []
        """Tasks of each layer; those of the base are with the first one that needs it."""

    def layer(self, index: int, layer: Layer, occurrence: int) -> Delayed:
        """All tasks of one layer, which is the output's plane `index`."""
        before = len(self._finished)
        waits = self._finished[max(before - LAYERS_IN_FLIGHT, 0) : before - LAYERS_IN_FLIGHT + 1]
        streams = Streams(self._seed, layer.label, occurrence)
        work: dict[str, int] = {}
        read = light = None
        parts: list[Delayed] = []
        rubbish: list[Spilled] = []
        base: Any = None
        if layer.read is not None:
            cube = self._cube(index)
            read, more, done = self._read_part(layer, streams, index, cube, waits, work)
            base = self._l2["data"]
            parts, rubbish = [done], [*cube, read, *more]
            if not layer.read.own_ramp:
                base, ready = self._base_image(work)
                parts.append(ready)
        if layer.poisson is not None or layer.pearson:
            light = self._image(f"light{index}")
            parts.append(self._light_part(layer, streams, light, waits, work))
            rubbish.append(light)
        images = (read, base, light, self._flags)
        place = (index, self._planes[index])
        call = (layer, images, place, self._exposure, self._store, rubbish)
        finished = tasks.fan(f"finish-layer-{index}", finish_layer, [call], parts, work)
        self._finished.append(finished)
        name = f"layer {index + 1} of {len(self._planes)} {layer.label}"
        self.stages.append(Stage(name, work, "tasks"))
        return finished

    def _image(self, name: str, dtype: str = "float32") -> Spilled:
        n = self._exposure.side
        return self._store.create(f"{name}-{self._token}", (n, n), self._grid.tile, dtype)

    def _cube(self, index: int) -> tuple[Spilled, Spilled]:
        """Stores of a noisy ramp, of which strips are written whole."""
        r, n = self._exposure.n_resultants, self._exposure.side
        return (
            self._store.create(
                f"cube{index}-{self._token}", (r, n, n), (1, n, min(STRIP, n)), "uint16"
            ),
            self._store.create(
                f"amp{index}-{self._token}", (r, n, CHANNEL_WIDTH), (1, n, CHANNEL_WIDTH), "uint16"
            ),
        )

    def _made_of(self, own: bool, work: dict[str, int]) -> tuple[NoiseStrips, list[Delayed]]:
        """What noisy planes are made from, the same for all layers of a kind, and when it is
        there."""
        inputs, n = self._job.inputs, self._exposure.side
        chunk = (min(STRIP_ROWS, n), min(STRIP, n))
        if self._read_noise is None:
            image = self._store.create(f"read-noise-{self._token}", (n, n), chunk, "float32")
            done = tasks.fan("read-noise", write_read_noise, [(inputs, image)], work=work)
            self._read_noise = image, done
        image, image_done = self._read_noise
        if own not in self._strips:
            r, kind = self._exposure.n_resultants, "own" if own else "dark"
            ramp = self._store.create(f"{kind}-{self._token}", (r, n, n), (1, *chunk), "uint16")
            calls = [(j, own, inputs, ramp) for j in range(r)]
            done = tasks.fan(f"{kind}-ramp", write_base_ramp, calls, work=work)
            self._strips[own] = NoiseStrips(ramp, image), [done, image_done]
        return self._strips[own]

    def _read_part(
        self,
        layer: Layer,
        streams: Streams,
        index: int,
        cube: tuple[Spilled, Spilled],
        waits: list[Delayed],
        work: dict[str, int],
    ) -> tuple[Spilled, list[Spilled], Delayed]:
        """The noisy ramp through the recipe: image, what else was stored, when they are there."""
        assert layer.read is not None
        own = layer.read.own_ramp
        strips, ready = self._made_of(own, work)
        planes = [
            (j, strips, streams, self._job.inputs, cube) for j in range(self._exposure.n_resultants)
        ]
        written = tasks.fan(
            f"noise-plane-{index}", write_noisy_plane, planes, [*waits, *ready], work
        )
        inputs = _noisy_inputs(self._job.inputs, cube, own)
        return self._run(inputs, f"read{index}", [written], work)

    def _base_image(self, work: dict[str, int]) -> tuple[Spilled, Delayed]:
        """The image of the dark cube, the same for all layers, and when it is there."""
        if self._base is None:
            image, _, done = self._run(_base_inputs(self._job.inputs), "base", [], work)
            self._base = image, done
        return self._base

    def _run(
        self, inputs: Inputs, name: str, after: list[Delayed], work: dict[str, int]
    ) -> tuple[Spilled, list[Spilled], Delayed]:
        """The recipe on other inputs, its sky-subtracted rate written to the store."""
        steps = quiet_steps(self._job.steps)
        target, rate = self._image(name), self._image(f"{name}-rate")
        flags = self._image(f"{name}-dq", "uint8")
        sinks: dict[str, plan.Sink] = {"rate": rate, "data": target, "dq": UsableFlags(flags)}
        lazy = graph.build(
            steps, inputs, self._grid, (), self._per_step, after, sinks, in_flight=in_flight()
        )
        for names in lazy.work:
            work |= names  # what is measured aside is not asked for
        return target, [rate, flags], lazy.seconds[-1]

    def _light_part(
        self,
        layer: Layer,
        streams: Streams,
        light: Spilled,
        waits: list[Delayed],
        work: dict[str, int],
    ) -> Delayed:
        """P and O on all tiles; its value: their inadmissible pixels."""
        fit = self._job.params("ramp_fit")
        if not isinstance(fit, RampFitParams):
            raise InputError(f"layer {layer.label!r}: P and O need the ramp_fit step in the recipe")
        source = PhotonNoiseInputs(
            self._l2["data_withsky"],
            self._l2["endslice"],
            self._l2.get("excluded"),
            self._job.inputs.sources["gain.data"],
            np.array([f.k for f in fits(self._exposure, fit)], float),
            self._exposure,
            fit,
        )
        if layer.poisson is not None and layer.poisson.background_order is not None:
            order = layer.poisson.background_order
            level = (self._l2["data_withsky"], self._flags, order, self._exposure)
            waits = [tasks.fan(f"background-{light.name}", fit_background, [level], waits)]
        windows = [self._grid.window(*place) for place in np.ndindex(*self._grid.shape)]
        tiles = [(layer, streams, window, source, light) for window in windows]
        return tasks.fan(f"draw-{light.name}", write_photon_noise, tiles, waits, work)


def _found(layout: Layout, *key: str) -> FileArray:
    array = layout.array(*key)
    if array is None:
        raise InputError(f"{layout.path}: no {'.'.join(key)}")
    return array


def quiet_steps(steps: Sequence[BoundStep]) -> list[BoundStep]:
    """The steps that a noise layer's image needs: all that feed it, without the mask's part."""
    return plan.feeding(steps, ["data"])


def _base_inputs(inputs: Inputs) -> Inputs:
    """The dark cube as an exposure: what R is measured against."""
    exposure = dataclasses.replace(inputs.exposure, encoding_offset=0.0, guide_window=None)
    sources = dict(inputs.sources)
    for name in ("l1.reference_read", "l1.reference_amp33", "l1.resultantdq"):
        sources.pop(name, None)
    sources["l1.data"] = DarkRamp(inputs.sources["dark.data"])
    if "read.amp33.med" in sources:
        sources["l1.amp33"] = Quiet(sources["read.amp33.med"], exposure.n_resultants)
    return Inputs(exposure, sources, inputs.layouts)


def _noisy_inputs(inputs: Inputs, cube: tuple[Spilled, Spilled], own: bool) -> Inputs:
    """A noisy ramp in the store as an exposure."""
    exposure = dataclasses.replace(inputs.exposure, encoding_offset=0.0)
    if not own:
        exposure = dataclasses.replace(exposure, guide_window=None)
    sources = dict(inputs.sources)
    for name in ("l1.reference_read", "l1.reference_amp33"):
        sources.pop(name, None)
    if not own:
        sources.pop("l1.resultantdq", None)
    sources["l1.data"], sources["l1.amp33"] = cube
    return Inputs(exposure, sources, inputs.layouts)
