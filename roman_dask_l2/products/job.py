"""Opening and checking the files of a configuration. Reads headers only, no pixels."""

from __future__ import annotations

import inspect as introspection
import logging
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from ..config.model import Config, load_config
from ..config.noise_labels import Layer, parse_all
from ..config.recipe import Recipe, load_recipe
from ..core.detector import BORDER, CHANNEL_WIDTH
from ..core.exposure import Exposure
from ..core.photometry import not_imaging
from ..core.step import BoundStep
from ..engine import plan
from ..errors import InputError
from ..io.asdf_file import open_asdf
from ..io.atomic import check_target, real_path
from ..io.fits import fits_name
from ..io.kinds import wrong_tag
from ..io.l1 import l1_exposure
from ..io.layout import Layout, known_layout, read_layout
from ..io.references import Inputs, add_wcs, open_inputs
from ..io.spill import LAYERS_IN_FLIGHT, check_temp
from ..io.wcs import Wcs, load_wcs

log = logging.getLogger(__name__)

LONGEST = 120
"""Maximum length of ``meta.filename`` in the schema of a Level 2 file."""

T = TypeVar("T")


@dataclass
class Job:
    """An exposure with all files opened and checked; nothing is computed yet.

    Attributes
    ----------
    config : Config
    recipe : Recipe
    steps : list of BoundStep
        The recipe's steps that apply to this exposure.
    inputs : Inputs
    wcs : Wcs
    layers : list of (Layer, int)
        Noise layers, each with the number of equal labels before it; empty unless the NOISE block
        was checked.
    """

    config: Config
    recipe: Recipe
    steps: list[BoundStep]
    inputs: Inputs
    wcs: Wcs
    layers: list[tuple[Layer, int]] = field(default_factory=list)

    @property
    def exposure(self) -> Exposure:
        return self.inputs.exposure

    @property
    def notes(self) -> list[str]:
        """Warnings."""
        odd = not_imaging(self.exposure.optical_element)
        own = [f"{self.config.IN}: {odd}"] if odd else []
        return [*self.recipe.notes, *self.inputs.notes, *own]

    def params(self, step: str) -> Any:
        """Parameters of a step, None if it is not in the recipe."""
        return next((b.params for b in self.steps if b.name == step), None)


def prepare(config: Config | Mapping[str, Any] | str | Path, *, noise: bool = False) -> Job:
    """Open and check everything that a configuration names.

    Parameters
    ----------
    config : Config, mapping, str or Path
    noise : bool
        Check the NOISE block as well. A calibration alone does not need its directories, which may
        exist only on the machine that makes the layers.

    Returns
    -------
    Job
        Takes the place of the configuration in `calibrate` and `generate_noise`, so that one run
        opens every file once. It reads headers only, no pixels.

    Raises
    ------
    InputError
        With everything that is wrong, one sentence each.
    """
    problems: list[str] = []
    job = open_job(load_config(config), problems, noise)
    if job is None or problems:
        raise InputError(problems)
    return job


def attempt(problems: list[str], func: Callable[..., T], *args: Any, **options: Any) -> T | None:
    """Call `func`; if it raises an InputError, add its problems to the list and return None."""
    try:
        return func(*args, **options)
    except InputError as error:
        problems += error.problems
        return None


def open_job(config: Config, problems: list[str], noise: bool) -> Job | None:
    """Open everything; problems are added to the list."""
    recipe = attempt(problems, load_recipe, config.GRAPH, config)
    l1 = attempt(problems, read_layout, config.IN)
    exposure = None
    if l1 is not None:
        exposure = attempt(problems, l1_exposure, l1, exclude_first=config.EXCLUDE_FIRST)
    wcs = attempt(problems, _open_wcs, config, l1)
    writable = attempt(problems, check_writable, outputs(config))
    if len(config.OUT.name) > LONGEST:
        problems.append(
            f"{config.OUT}: its name has {len(config.OUT.name)} characters, expected {LONGEST} "
            "at most, as meta.filename of a Level 2 file"
        )
    checked = None
    if noise and config.NOISE is not None:
        checked = attempt(problems, check_noise, config)
    if l1 is None or exposure is None:
        for key, path in config.references().items():
            found: list[str] = []
            attempt(found, known_layout, path)
            problems += [f"CALDIR.{key}: {p}" for p in found]
        return None
    if bad_tag := wrong_tag(l1):
        problems.append(bad_tag)
    inputs, wrong = open_inputs(l1, exposure, config.references())
    problems += wrong
    if writable:
        attempt(problems, check_disk, config, exposure)
    if checked and config.NOISE is not None:
        attempt(problems, check_temp, config.NOISE.TEMP, temp_needed(exposure, checked))
    if recipe is None or wcs is None or problems:
        return None
    names = {n for b in recipe.steps for n in b.step.references_for(b.params).values()}
    shifts = {int(n.partition("+")[2]) for n in names if n.startswith("wcs.area+")}
    with_wcs = attempt(problems, add_wcs, inputs, wcs, shifts)
    if with_wcs is None:
        return None
    steps = plan.applicable(recipe.steps, with_wcs)
    problems += _missing_references(steps, with_wcs)
    for bound in steps:
        if unfit := bound.step.check(exposure, bound.params):
            problems.append(f"{config.IN}: {unfit}")
    if config.romancal_ramp_fit:
        log.info("romancal_ramp_fit: recipe %s", recipe.name)
    if config.JUMPOUT:
        attempt(problems, jump_flags, steps)
    return Job(config, recipe, steps, with_wcs, wcs, checked or [])


def jump_flags(steps: Sequence[BoundStep]) -> tuple[str, str]:
    """The step after which all jumps are flagged, and the variable that holds these flags.

    Raises
    ------
    InputError
        If no step flags any.
    """
    found = [
        (bound.name, name)
        for bound in steps
        for name in ("groupdq", "events")
        if "JUMP_DET" in bound.step.sets.get(name, ())
    ]
    if not found:
        raise InputError("JUMPOUT: no step of the recipe sets JUMP_DET on resultants")
    return found[-1]


def _open_wcs(config: Config, l1: Layout | None) -> Wcs | None:
    """The WCS that the configuration names, else that of the L1 file; None if it is in a file that
    could not be read, which has been reported."""
    l1_wcs = None
    if config.FITSWCS is None and config.GWCS is None:
        if l1 is None:
            return None
        l1_wcs = _l1_wcs(l1)
    return load_wcs(config.FITSWCS, config.GWCS, l1_wcs, config.FITSWCS_ORIGIN)


def _l1_wcs(layout: Layout) -> Any:
    """The L1 file's own gwcs, None if it has none."""
    if layout.value("roman", "meta", "wcs") is None:
        return None
    try:
        with open_asdf(layout.path) as file:
            return file["roman"]["meta"]["wcs"]
    except (InputError, OSError, MemoryError):
        raise
    except Exception as error:  # asdf, its converters and gwcs fail in every way
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise InputError(
            f"{layout.path}: roman.meta.wcs cannot be read ({reason[:200]}), expected a gwcs"
        ) from None


def _missing_references(steps: list[BoundStep], inputs: Inputs) -> list[str]:
    """Arrays without which a step cannot run (its kernel has no default for them)."""
    problems = []
    for bound in steps:
        parameters = introspection.signature(bound.step.kernel).parameters
        for keyword, name in bound.step.references_for(bound.params).items():
            needed = parameters[keyword].default is introspection.Parameter.empty
            if needed and not inputs.available(name):
                problems.append(f"step {bound.name} needs {name}, which no file in CALDIR gives")
    return problems


def outputs(config: Config) -> list[Path]:
    """Files that a calibration writes."""
    return [config.OUT, *([fits_name(config.OUT)] if config.FITSOUT else [])]


def check_writable(paths: list[Path]) -> bool:
    """Check that files can be written: their directories exist and are writable, they are not
    directories themselves, their names are not too long.

    Raises
    ------
    InputError
    """
    problems: list[str] = []
    for path in paths:
        attempt(problems, check_target, path)
        if problems:  # the others are in the same directory
            raise InputError(problems)
    return True


def noise_outputs(config: Config) -> list[Path]:
    """Files that are written with the noise layers."""
    if config.NOISE is None:
        return []
    return [config.NOISE.OUT, *([fits_name(config.NOISE.OUT)] if config.FITSOUT else [])]


def check_noise(config: Config) -> list[tuple[Layer, int]]:
    """Check a NOISE block as far as possible before the exposure is calibrated.

    Returns
    -------
    list of (Layer, int)
        The layers, with the number of equal labels before each.

    Raises
    ------
    InputError
    """
    noise = config.NOISE
    if noise is None:
        raise InputError("NOISE: missing, expected LAYER, TEMP, SEED and OUT")
    problems: list[str] = []
    layers = attempt(problems, parse_all, noise.LAYER)
    attempt(problems, check_writable, noise_outputs(config))
    attempt(problems, check_temp, noise.TEMP)
    if layers is None or problems:
        raise InputError(problems)
    return layers


def temp_needed(exposure: Exposure, layers: Sequence[tuple[Layer, int]]) -> int:
    """Maximum size of the TEMP store of noise layers, bytes."""
    n, r = exposure.side, exposure.n_resultants
    frame = n * n
    cube = (
        frame * (2 * r + 9) + 2 * r * n * CHANNEL_WIDTH
    )  # its rate with and without sky, its flags
    cubes = sum(layer.ramp is not None for layer, _ in layers)
    drawn = sum(layer.draws_blocks for layer, _ in layers)
    kinds = {layer.ramp for layer, _ in layers if layer.ramp is not None}
    base = 9 * frame if "dark" in kinds else 0
    if kinds:
        base += (4 + 2 * r * len(kinds)) * frame  # what noisy planes are made from
    in_flight = min(cubes, LAYERS_IN_FLIGHT) * cube + min(drawn, LAYERS_IN_FLIGHT) * 4 * frame
    return base + in_flight


def check_disk(config: Config, exposure: Exposure) -> None:
    """Check that the outputs fit on the disk, next to an older version that they replace.

    Raises
    ------
    InputError
    """
    n, r = exposure.side, exposure.n_resultants
    active = (n - 2 * BORDER) ** 2
    # Bytes per pixel: data, data_withsky, dq, dq2 4 each; err, var_poisson, chisq, dumo 2 each;
    # mask 1; endslice 1. The border is kept with all resultants.
    needed = active * (4 * 4 + 4 * 2 + 1 + config.SLICEOUT) + r * n * (
        CHANNEL_WIDTH * 2 + 16 * BORDER
    )
    needed += active * (12 * config.FITSOUT + -(-r // 8) * config.JUMPOUT)
    folder = real_path(config.OUT).parent
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise InputError(
            f"{config.OUT}: too little disk space, {free / 1e6:.0f} MB free of the "
            f"{needed / 1e6:.0f} MB needed"
        )
