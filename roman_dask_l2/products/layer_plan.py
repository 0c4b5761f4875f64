"""The Dask graph of noise layers."""

from __future__ import annotations

import dataclasses
import uuid
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from dask.delayed import Delayed

from ..config.noise_commands.command import ActsOn
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
from ..io.references import Inputs, share_sources
from ..io.spill import LAYERS_IN_FLIGHT, Spilled, TempStore
from ..noise.streams import Streams
from ..steps.likelihood_params import LikelihoodParams
from ..steps.ramp_params import RampFitParams
from ..steps.ramp_weights import fits
from .base_ramp import (
    UsableFlags,
    base_inputs,
    dark_border,
    noisy_inputs,
)
from .block_noise import (
    FixedFit,
    LikelihoodFit,
    PhotonNoiseInputs,
    rows_of_blocks,
    write_block_noise,
)
from .image_sky import fit_background
from .job import Job
from .layer_needs import ramp_fit
from .layer_sum import LayerParts, finish_layer
from .noise_commands.drawing import RampNoise
from .noise_commands.registry import DRAWINGS

Wanted = tuple[int, Layer, int]
"""The output's plane, layer, its occurrence."""


@dataclass(frozen=True)
class Ramp:
    """A ramp that the recipe runs on.

    Attributes
    ----------
    member : graph.Ramp
    target : Spilled
        Image of the sky-subtracted rate, or of the rate if the recipe subtracts no sky.
    others : list of Spilled
        Other stores of what is made of it.
    """

    member: graph.Ramp
    target: Spilled
    others: list[Spilled]


Course = Generator[list[Ramp], list[graph.Lazy], list[Delayed]]
"""Yields the ramps of a stack, goes on with what runs on them, and returns the last tasks."""


def build_layers(plans: Sequence[LayerPlan], wanted: Sequence[Sequence[Wanted]]) -> list[Delayed]:
    """All tasks of the layers of exposures that are calibrated by the same steps. Stacks of several
    exposures are one stack."""
    courses = [one.layers(layers) for one, layers in zip(plans, wanted, strict=True)]
    done: list[Delayed] = []
    asked: dict[int, list[Ramp]] = {}

    def advance(i: int, made: list[graph.Lazy] | None) -> None:
        try:
            asked[i] = next(courses[i]) if made is None else courses[i].send(made)
        except StopIteration as end:
            done.extend(end.value)

    for i in range(len(courses)):
        advance(i, None)
    while asked:
        now, asked = asked, {}
        members = [ramp.member for ramps in now.values() for ramp in ramps]
        lazy = iter(plans[0].run(members))
        for i, ramps in now.items():
            advance(i, [next(lazy) for _ in ramps])
    return done


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
        depth: int = LAYERS_IN_FLIGHT,
    ) -> None:
        self._depth = 1 if per_step else depth
        self._planes = planes
        # Tasks of a plan that has failed may still be running.
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
                ("noise_ratio", ("processinfo", "noise_ratio"), "float32"),
                ("unused_differences", ("processinfo", "unused_differences"), "uint8"),
                ("dq", ("roman", "dq"), "uint32"),
                ("mask", ("mask",), "bool"),
            )
            if l2.array(*key) is not None
        }
        # Without a sky model the image is the rate.
        self._l2.setdefault("data_withsky", self._l2["data"])
        # Pixels that statistics and fits leave out; None: no pixel is left out.
        every = getattr(job.params("sky"), "every_pixel", False)
        self._flags = None if every else self._l2["dq"]
        # The likelihood fit gives no rate where it can use no difference.
        likelihood = isinstance(ramp_fit(job), LikelihoodParams)
        self._rate = self._l2["data_withsky"] if likelihood else None
        noise = job.config.NOISE
        assert noise is not None
        self._seed = noise.SEED
        self._base: tuple[Spilled, Delayed] | None = None
        self.steps = quiet_steps(job.steps)
        self.stages: list[Stage] = []
        """Tasks of each layer; those of the base ramp count with the first layer that needs it."""

    def layers(self, wanted: Sequence[Wanted]) -> Course:
        """All tasks of layers. Noisy ramps run in stacks, the first with the base ramp."""
        depth = self._depth
        ramps = [one for one in wanted if one[1].ramp is not None]
        stacks = [ramps[i : i + depth] for i in range(0, len(ramps), depth)]
        stacks += [[one] for one in wanted if one[1].ramp is None]
        done: list[list[Delayed]] = []
        for stack in stacks:
            # As many layers are under way at a time as the store has room for.
            room, before = LAYERS_IN_FLIGHT - len(stack), list(done)
            while before and len(before[-1]) <= room:
                room -= len(before.pop())
            done.append((yield from self._stack(stack, before[-1] if before else [])))
        return [one for several in done for one in several]

    def _stack(self, stack: Sequence[Wanted], waits: list[Delayed]) -> Course:
        """All tasks of layers whose ramps run together, once `waits` are there."""
        works: list[dict[str, int]] = [{} for _ in stack]
        ramps: list[Ramp] = []
        dark = any(layer.ramp == "dark" for _, layer, _ in stack)
        if dark and self._base is None:
            ramps.append(self._ramp("base", base_inputs(self._job.inputs), []))
        cubes: dict[int, tuple[Spilled, Spilled]] = {}
        for (index, layer, occurrence), work in zip(stack, works, strict=True):
            if layer.ramp is not None:
                cubes[index] = self._cube(f"cube{index}"), self._cube(f"amp{index}", CHANNEL_WIDTH)
                streams = Streams(self._seed, layer.label, occurrence)
                ramps.append(self._noisy(layer, streams, index, cubes[index], waits, work))
        made: list[graph.Lazy] = []
        if ramps:
            made = yield ramps
            for lazy in made:
                for names in lazy.work:
                    works[0] |= names  # lazy.aside is not computed
        images = [
            (ramp.target, [*ramp.others, *lazy.spilled], lazy.seconds[-1])
            for ramp, lazy in zip(ramps, made, strict=True)
        ]
        if dark and self._base is None:
            image, _, ready = images.pop(0)
            self._base = image, ready
        noisy_images = dict(zip(cubes, images, strict=True))
        done = []
        for (index, layer, occurrence), work in zip(stack, works, strict=True):
            noisy = drawn = None
            results: list[Delayed] = []
            temporaries: list[Spilled] = []
            base: Any = None
            if layer.ramp is not None:
                noisy, more, end = noisy_images[index]
                results, temporaries = [end], [*cubes[index], noisy, *more]
                base = self._l2["data"]
                if layer.ramp == "dark":
                    assert self._base is not None
                    base, ready = self._base
                    results.append(ready)
            if layer.draws_blocks:
                drawn = self._image(f"light{index}", rows=CHANNEL_WIDTH)
                streams = Streams(self._seed, layer.label, occurrence)
                results.append(self._block_part(layer, streams, drawn, waits, work))
                temporaries.append(drawn)
            parts = LayerParts(noisy, base, drawn, self._flags, self._rate)
            place = (index, self._planes[index])
            call = (layer, parts, place, self._exposure, self._store, temporaries)
            done.append(tasks.fan(f"finish-layer-{index}", finish_layer, [call], results, work))
            name = f"layer {index + 1} of {len(self._planes)} {layer.label}"
            self.stages.append(Stage(name, work, "parts"))
        return done

    def _image(self, name: str, dtype: str = "float32", rows: int | None = None) -> Spilled:
        """Store of an image, which is written tile by tile, or in full rows."""
        n = self._exposure.side
        parts = self._grid.tile if rows is None else (rows, n)
        return self._store.create(f"{name}-{self._token}", (n, n), parts, dtype)

    def _cube(self, name: str, width: int | None = None) -> Spilled:
        """Store of a ramp, one file for each resultant, which is written whole."""
        r, n = self._exposure.n_resultants, self._exposure.side
        plane = n, width or n
        return self._store.create(f"{name}-{self._token}", (r, *plane), (1, *plane), "uint16")

    def _noisy(
        self,
        layer: Layer,
        streams: Streams,
        index: int,
        cube: tuple[Spilled, Spilled],
        waits: list[Delayed],
        work: dict[str, int],
    ) -> Ramp:
        """The noisy ramp of a layer, and the tasks that write it."""
        ((command, argument),) = layer.acting_on(ActsOn.RAMP)
        drawing = DRAWINGS[command.letter]
        assert isinstance(drawing, RampNoise)
        own = layer.ramp == "own"
        of_dark = dark_border(own, self._job.inputs, self._job.steps)
        planes = [
            (argument, j, own, of_dark, streams, self._job.inputs, cube)
            for j in range(self._exposure.n_resultants)
        ]
        written = tasks.fan(f"noise-plane-{index}", drawing.write_plane, planes, waits, work)
        return self._ramp(f"read{index}", noisy_inputs(self._job.inputs, cube, own), [written])

    def _ramp(self, name: str, inputs: Inputs, after: list[Delayed]) -> Ramp:
        """A ramp that the recipe is to run on, and the stores of what is made of it."""
        rate, flags = self._image(f"{name}-rate"), self._image(f"{name}-dq", "uint8")
        sinks: dict[str, plan.Sink] = {"rate": rate, "dq": UsableFlags(flags)}
        target, others = rate, [flags]
        if _makes_data(self.steps):
            sinks["data"] = target = self._image(name)
            others = [rate, flags]
        member = graph.Ramp(inputs, sinks, after, (), self._store)
        return Ramp(member, target, others)

    def run(self, members: Sequence[graph.Ramp]) -> list[graph.Lazy]:
        """Run the recipe on ramps, together if it can be done."""
        steps = self.steps
        if len(members) > 1 and not self._per_step and plan.stackable(steps, members[0].sinks):
            shared = share_sources([one.inputs for one in members])
            members = [
                dataclasses.replace(one, inputs=inputs)
                for one, inputs in zip(members, shared, strict=True)
            ]
            return graph.build_stack(steps, members, self._grid, in_flight())
        runs = []
        for one in members:
            more: dict[str, Any] = {"after": one.after, "sinks": one.sinks}
            more |= {"in_flight": in_flight(), "scratch": one.scratch}
            runs.append(graph.build(steps, one.inputs, self._grid, (), self._per_step, **more))
        return runs

    def _block_part(
        self,
        layer: Layer,
        streams: Streams,
        drawn: Spilled,
        waits: list[Delayed],
        work: dict[str, int],
    ) -> Delayed:
        """Block noise on the whole image; its value: the `WithoutDraw` of each part."""
        light = self._light() if layer.needs_light else None
        if layer.backgrounds:
            calls = [
                (self._l2["data_withsky"], self._flags, order, self._exposure)
                for order in layer.backgrounds
            ]
            waits = [tasks.fan(f"background-{drawn.name}", fit_background, calls, waits)]
        windows = rows_of_blocks(self._exposure.side)
        inputs = self._exposure, light, self._l2["mask"]
        parts = [(layer, streams, window, *inputs, drawn) for window in windows]
        return tasks.fan(f"draw-{drawn.name}", write_block_noise, parts, waits, work)

    def _light(self) -> PhotonNoiseInputs:
        """The light of the exposure, as the L2 file has it."""
        fit: FixedFit | LikelihoodFit
        params = ramp_fit(self._job)
        if isinstance(params, LikelihoodParams):
            fit = LikelihoodFit(self._l2["noise_ratio"], self._l2.get("unused_differences"))
        else:
            weights = np.array([f.k for f in fits(self._exposure, params)], float)
            excluded = self._l2.get("excluded")
            fit = FixedFit(self._l2["endslice"], excluded, weights, params)
        gain = self._job.inputs.sources["gain.data"]
        return PhotonNoiseInputs(self._l2["data_withsky"], gain, fit, self._exposure)


def _found(layout: Layout, *key: str) -> FileArray:
    array = layout.array(*key)
    if array is None:
        raise InputError(f"{layout.path}: no {'.'.join(key)}")
    return array


def quiet_steps(steps: Sequence[BoundStep]) -> list[BoundStep]:
    """The steps that the image of a noise layer depends on: not the mask. Nor does it depend on
    what a ramp fit says of its own quality."""
    kept = plan.feeding(steps, ["data" if _makes_data(steps) else "rate"])
    return [
        dataclasses.replace(b, params=b.params.model_copy(update={"quality": False}))
        if isinstance(b.params, RampFitParams)
        else b
        for b in kept
    ]


def _makes_data(steps: Sequence[BoundStep]) -> bool:
    """Whether a sky model is subtracted; the image is the rate otherwise."""
    return any("data" in bound.step.writes for bound in steps)
