"""Opening and checking the files of a configuration. Reads headers only, no pixels."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from ..config.caldir import as_given
from ..config.model import Config, load_config
from ..config.noise_labels import Layer, parse_all
from ..config.recipe import Recipe, load_recipe
from ..config.yaml_file import display_name
from ..core.detector import BORDER, CHANNEL_WIDTH
from ..core.exposure import Exposure
from ..core.photometry import not_imaging
from ..core.step import BoundStep
from ..engine import plan
from ..errors import InputError
from ..io.asdf_file import open_asdf
from ..io.atomic import check_target, real_path
from ..io.crds import Choice
from ..io.fits import fits_name
from ..io.kinds import wrong_tag
from ..io.l1 import l1_exposure
from ..io.layout import Layout, known_layout, read_layout
from ..io.pointing import pointed_wcs
from ..io.references import Inputs, add_wcs, open_inputs
from ..io.spill import LAYERS_IN_FLIGHT, check_temp
from ..io.wcs import Wcs, load_wcs
from ..steps.assign_wcs import AssignWcsParams
from .choice import missing, references_of, used_arrays
from .layer_inputs import missing_inputs, needed_arrays
from .scratch import check_scratch, scratch_needed

log = logging.getLogger(__name__)

LONGEST = 120
"""Maximum length of ``meta.filename`` in the schema of a Level 2 file."""

MISSED = {
    "ipc4d": "inter-pixel capacitance is not corrected",
    "mask": "data-quality flags start at 0",
    "integralnonlinearity": "the converters' non-linearity stays in the signal",
    "photom": "no conversion to MJy/sr in the metadata",
}
"""What it means that an optional reference file, which a step of the recipe reads, is not given."""

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
    references : dict of str to Path
        Reference files that are used, by their key in CALDIR.
    crds : Choice, optional
        What CRDS chose, if it was asked.
    """

    config: Config
    recipe: Recipe
    steps: list[BoundStep]
    inputs: Inputs
    wcs: Wcs
    layers: list[tuple[Layer, int]] = field(default_factory=list)
    references: dict[str, Path] = field(default_factory=dict)
    crds: Choice | None = None

    @property
    def exposure(self) -> Exposure:
        return self.inputs.exposure

    @property
    def notes(self) -> list[str]:
        """Warnings."""
        odd = not_imaging(self.exposure.optical_element)
        own = [f"{self.config.IN}: {odd}"] if odd else []
        wished = {name.partition(".")[0] for name in used_arrays(self.recipe)}
        without = [
            f"{display_name(self.config.source)}: no CALDIR.{key}, {what}"
            for key, what in MISSED.items()
            if key in wished and key not in self.references
        ]
        # A dark ramp has the decay in it, and takes it out of the exposure's.
        steps = {bound.name for bound in self.recipe.steps}
        corrected = "dark" in steps or "dark_decay" in self.references
        if "dark_decay" in steps and not corrected:
            name = display_name(self.config.source)
            without.append(f"{name}: no CALDIR.darkdecaysignal, the decay stays in the rate")
        if "flat_observatory" in steps - {bound.name for bound in self.steps}:
            own.append(
                f"{self.config.IN}: meta.exposure.type is {self.exposure.exposure_type}, which is "
                "no image: it is not divided by the flat field"
            )
        return [*without, *self.recipe.notes, *self.inputs.notes, *own]

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
        first = config.EXCLUDE_FIRST if recipe is None else recipe.exclude_first
        exposure = attempt(problems, l1_exposure, l1, exclude_first=first)
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
        attempt(problems, _open_wcs, config, recipe, None, {}, {})
        for key, path in config.references().items():
            wrong: list[str] = []
            attempt(wrong, known_layout, path)
            given = config.raw.get("CALDIR")
            problems += [as_given(f"CALDIR.{key}: {p}", given) for p in wrong]
        return None
    if bad_tag := wrong_tag(l1):
        problems.append(bad_tag)
    found = None if recipe is None else attempt(problems, references_of, config, recipe, l1)
    references, crds = (config.references(), None) if found is None else found
    if crds is not None:
        log.info("%s", crds)
    drawn = [layer for layer, _ in checked or []]
    used = None if recipe is None else {*used_arrays(recipe), *needed_arrays(drawn)}
    inputs, wrong = open_inputs(l1, exposure, references, used)
    problems += [as_given(line, config.raw.get("CALDIR")) for line in wrong]
    wcs = attempt(problems, _open_wcs, config, recipe, l1, references, inputs.layouts)
    if writable:
        attempt(problems, check_disk, config, exposure)
    if checked and config.NOISE is not None:
        spilled = scratch_needed(recipe.steps, exposure) if recipe else 0
        needed = temp_needed(exposure, checked, spilled)
        attempt(problems, check_temp, config.NOISE.TEMP, needed)
    if recipe is not None and writable:
        attempt(problems, check_scratch, config, recipe.steps, exposure)
    if recipe is None or wcs is None or problems:
        return None
    names = {n for b in recipe.steps for n in b.step.references_for(b.params).values()}
    shifts = {int(n.partition("+")[2]) for n in names if n.startswith("wcs.area+")}
    with_wcs = attempt(problems, add_wcs, inputs, wcs, shifts)
    if with_wcs is None:
        return None
    steps = plan.applicable(recipe.steps, with_wcs)
    problems += missing(config, steps, with_wcs, crds)
    problems += missing_inputs(drawn, with_wcs, references)
    for bound in steps:
        if unfit := bound.step.check(exposure, bound.params):
            problems.append(f"{config.IN}: {unfit}")
    if config.romancal_ramp_fit:
        log.info("romancal_ramp_fit: recipe %s", recipe.name)
    if config.JUMPOUT:
        attempt(problems, jump_flags, steps)
    return Job(config, recipe, steps, with_wcs, wcs, checked or [], references, crds)


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


def _open_wcs(
    config: Config,
    recipe: Recipe | None,
    l1: Layout | None,
    references: Mapping[str, Path],
    opened: Mapping[str, Layout],
) -> Wcs | None:
    """The WCS that the configuration names, else that of the L1 file, else one from its pointing
    and the distortion file; None if it is in a file that is not among those `opened`, which has
    been reported."""
    l1_wcs = None
    if config.FITSWCS is None and config.GWCS is None:
        if l1 is None:
            return None
        steps = () if recipe is None else recipe.steps
        params = [b.params for b in steps if isinstance(b.params, AssignWcsParams)]
        if all(p.level1 for p in params):
            l1_wcs = _l1_wcs(l1)
        if l1_wcs is None and "distortion" in references:
            path = references["distortion"]
            return pointed_wcs(l1, path) if "distortion" in opened else None
        if not all(p.level1 for p in params):
            raise InputError(
                "CALDIR.distortion: missing, expected a file from which the recipe's assign_wcs "
                "makes the WCS, or FITSWCS or GWCS in its place"
            )
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


def temp_needed(exposure: Exposure, layers: Sequence[tuple[Layer, int]], spilled: int = 0) -> int:
    """Maximum size of the TEMP store of noise layers, bytes; `spilled` are those of the corrections
    that the recipe makes of every ramp."""
    n, r = exposure.side, exposure.n_resultants
    frame = n * n
    # A noisy ramp, its rate with and without sky, its flags.
    cube = frame * (2 * r + 9) + 2 * r * n * CHANNEL_WIDTH + spilled
    cubes = sum(layer.ramp is not None for layer, _ in layers)
    drawn = sum(layer.draws_blocks for layer, _ in layers)
    base = 9 * frame + spilled if any(layer.ramp == "dark" for layer, _ in layers) else 0
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
