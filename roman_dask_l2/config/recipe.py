"""Recipes: pipelines as data, read from YAML and checked before anything runs."""

from __future__ import annotations

import importlib.resources
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from pydantic import ValidationError

from ..core.step import VARIABLES, BoundStep, Step
from ..errors import InputError
from ..steps.likelihood_params import LikelihoodParams
from ..steps.registry import find_step
from ..system.text import nearest

if TYPE_CHECKING:
    from .model import Config

RESULTS = ("rate", "dq", "err", "var_poisson", "endslice", "mask", "ramp")
"""Variables that a recipe must have made, because the L2 file is written from them. The image is
``data``, or the rate where no step makes that."""
KEYS = frozenset(
    ("name", "description", "steps", "outputs", "likelihood", "exclude_first", "border")
)
"""Keys of a recipe."""
BORDERS = ("raw", "romancal_1.1")
"""What a recipe can say about `Recipe.border`."""


@dataclass(frozen=True)
class Recipe:
    """A named sequence of steps.

    Attributes
    ----------
    name : str
    steps : tuple of BoundStep
    outputs : tuple of str
        Two-dimensional variables that go into the L2 file beside the usual ones.
    path : Path
        Its file.
    likelihood : str
        Name or file of the recipe that takes its place with ``romancal_ramp_fit``; empty if it
        says none.
    notes : tuple of str
        Keys of the configuration that it pays no heed to, a warning for each.
    exclude_first : bool
        The first resultant is not fitted, unless EXCLUDE_FIRST says otherwise.
    border : str
        Which reference pixels the L2 file keeps, one of `BORDERS`: all of them as they were read;
        or as romancal 1.1 does, with the left and right border as corrected, the last rows for the
        bottom and the first for the top, and the flags that `dq_init` knows.
    """

    name: str
    steps: tuple[BoundStep, ...]
    outputs: tuple[str, ...] = ()
    path: Path = Path()
    likelihood: str = ""
    notes: tuple[str, ...] = ()
    exclude_first: bool = True
    border: str = "raw"


def shipped() -> dict[str, Path]:
    """Recipes that come with the package: name -> file."""
    for folder in (
        Path(str(importlib.resources.files("roman_dask_l2"))) / "graphs",
        Path(__file__).parents[2] / "graphs",  # a checkout, or an editable installation
    ):
        if folder.is_dir():
            return {p.name.removesuffix(".yaml"): p for p in sorted(folder.glob("*.yaml"))}
    return {}


def load_recipe(name: str | Path, config: Config | None = None) -> Recipe:
    """Read a recipe and bind its steps to their parameters.

    With ``romancal_ramp_fit`` it is the one that takes its place.

    Parameters
    ----------
    name : str or Path
        Name of a shipped recipe, or a YAML file.
    config : Config, optional
        Keys that the user gave take precedence over the recipe's options.

    Raises
    ------
    InputError
        Unknown recipe, step or option; an option of the wrong type; steps that do not fit; a key of
        the configuration that the recipe cannot obey.
    """
    recipe = _read(_find(name), config)
    if config is None:
        return recipe
    recipe = _with_wanted_fit(recipe, config)
    if "EXCLUDE_FIRST" in config.model_fields_set:
        recipe = replace(recipe, exclude_first=config.EXCLUDE_FIRST)
    return replace(recipe, notes=tuple(_unheard(recipe, config)))


def _read(path: Path, config: Config | None) -> Recipe:
    try:
        document = yaml.safe_load(path.read_text())
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        line = " ".join(str(error).split())
        raise InputError(f"recipe {path}: cannot be read ({line})") from error
    entries = document.get("steps") if isinstance(document, Mapping) else None
    if not isinstance(entries, list) or not entries:
        raise InputError(f"recipe {path}: no list 'steps'")
    if unknown := set(document) - KEYS:
        raise InputError(f"recipe {path}: unknown key {sorted(unknown)[0]!r}")
    steps = tuple(_bind(entry, path, config) for entry in entries)
    check_fit(steps, f"recipe {path}")
    outputs = _outputs(document.get("outputs", []), steps, path)
    likelihood = document.get("likelihood", "")
    if not isinstance(likelihood, str):
        raise InputError(
            f"recipe {path}: likelihood is {likelihood!r}, expected the name of a recipe or a file"
        )
    exclude_first = document.get("exclude_first", True)
    if not isinstance(exclude_first, bool):
        raise InputError(
            f"recipe {path}: exclude_first is {exclude_first!r}, expected true or false"
        )
    border = document.get("border", BORDERS[0])
    if border not in BORDERS:
        raise InputError(f"recipe {path}: border is {border!r}, expected {' or '.join(BORDERS)}")
    return Recipe(
        str(document.get("name", path.stem)),
        steps,
        outputs,
        path,
        likelihood,
        exclude_first=exclude_first,
        border=border,
    )


def _outputs(names: Any, steps: Sequence[BoundStep], path: Path) -> tuple[str, ...]:
    made = {w for b in steps for w in b.step.writes if VARIABLES[w].dims == "yx"}
    for name in names if isinstance(names, list) else [names]:
        if name not in made:
            raise InputError(
                f"recipe {path}: outputs: {name!r} is no image that a step makes, "
                f"expected a list of {', '.join(sorted(made))}"
            )
    return tuple(names)


def _find(name: str | Path, where: str = "GRAPH", folder: Path | None = None) -> Path:
    """The file of a recipe; relative paths start at `folder`, else at the working directory."""
    known = shipped()
    if str(name) in known:
        return known[str(name)]
    path = Path(name) if folder is None else folder / name
    if path.is_file():
        return path
    near = nearest(str(name), known)
    hint = f", did you mean {near!r}?" if near else ""
    raise InputError(
        f"{where}: no recipe or file {str(name)!r}; shipped recipes: {', '.join(known)}{hint}"
    )


def _bind(entry: Any, path: Path, config: Config | None) -> BoundStep:
    options: Any = {}
    if isinstance(entry, str):
        name = entry
    elif isinstance(entry, Mapping) and len(entry) == 1:
        name, options = next(iter(entry.items()))
        options = options or {}
    else:
        raise InputError(f"recipe {path}: {entry!r} is not a step name or 'name: {{options}}'")
    step = find_step(str(name), f"recipe {path}")
    if not isinstance(options, Mapping):
        raise InputError(f"recipe {path}: options of {name} must be a mapping, not {options!r}")
    for option in options:
        if option not in step.params.model_fields:
            near = nearest(str(option), step.params.model_fields)
            hint = f", did you mean {near!r}?" if near else ""
            raise InputError(f"recipe {path}: step {name} has no option {option!r}{hint}")
    settings = {} if config is None else _settings(step, config)
    try:
        return BoundStep(step, step.params(**{**options, **settings}))
    except ValidationError as error:
        first = error.errors()[0]
        option = ".".join(str(p) for p in first["loc"])
        message = f"recipe {path}: step {name}, option {option}: {first['msg']}"
        raise InputError(message) from error


def _settings(step: Step, config: Config) -> dict[str, Any]:
    """Parameters that the user's configuration sets."""
    found = {}
    for parameter, key in step.settings.items():
        *outer, last = key.split(".")
        owner: Any = config
        for part in outer:
            owner = getattr(owner, part)
            if owner is None:
                break
        if owner is not None and last in owner.model_fields_set:
            found[parameter] = getattr(owner, last)
    return found


def _by_likelihood(recipe: Recipe) -> bool:
    return any(issubclass(bound.step.params, LikelihoodParams) for bound in recipe.steps)


def _with_wanted_fit(recipe: Recipe, config: Config) -> Recipe:
    """The recipe with the kind of ramp fit that the configuration asks for."""
    here, wanted = _by_likelihood(recipe), config.romancal_ramp_fit
    if wanted == here or "romancal_ramp_fit" not in config.model_fields_set:
        return recipe
    if not wanted:
        raise InputError(
            f"romancal_ramp_fit is false, but recipe {recipe.name} fits by likelihood; choose "
            "another one with GRAPH, or leave the key out"
        )
    if not recipe.likelihood:
        raise InputError(
            f"romancal_ramp_fit: recipe {recipe.name} has no likelihood fit, and no key "
            "'likelihood' that names a recipe with one"
        )
    where = f"recipe {recipe.path}: likelihood"
    other = _read(_find(recipe.likelihood, where, recipe.path.parent), config)
    if not _by_likelihood(other):
        raise InputError(f"{where}: recipe {other.name} has no step ramp_fit_likelihood")
    return other


STEP_KEYS = (
    "RAMP_OPT_PARS",
    "JUMP_DETECT_PARS",
    "REJECTION_THRESHOLD",
    "JUMP_KW",
    "SKYORDER",
    "MASK",
    "SATURATION_BACKUP",
    "correct_wfi18_transient",
    "wfi18_mask_rows",
)
"""Keys that set options of steps which not every recipe has."""
SWITCH, CORES = "JUMP_KW.expand_large_events", "JUMP_KW.maximum_cores"


def _unheard(recipe: Recipe, config: Config) -> Iterator[str]:
    """A line for each key that was given and changes nothing."""
    heard = {
        key
        for bound in recipe.steps
        for option, key in bound.step.settings.items()
        if not (option == "rejection_threshold" and getattr(bound.params, "fixed_threshold", False))
    }
    for key in STEP_KEYS:
        if key not in config.model_fields_set:
            continue
        inner = getattr(getattr(config, key), "model_fields_set", None)
        given = {key} if inner is None else {f"{key}.{name}" for name in inner}
        for_steps = given - {CORES}
        if lost := sorted(for_steps - heard):
            names = key if len(lost) == len(for_steps) else ", ".join(lost)
            yield f"{names}: no effect, recipe {recipe.name} has no such option"
        elif key == "JUMP_KW" and not config.JUMP_KW.expand_large_events and for_steps - {SWITCH}:
            yield f"JUMP_KW: no effect without {SWITCH}"
        if CORES in given:
            yield f"{CORES}: no effect, the number of threads is that of --threads"


def check_fit(steps: Sequence[BoundStep], where: str) -> None:
    """Every step must find what it reads; together they must make the L2 file's arrays.

    Raises
    ------
    InputError
        Naming the first step that lacks something, or the array that nobody makes.
    """
    made: set[str] = set()
    for bound in steps:
        step = bound.step
        reduction = step.reduction
        needs = set(step.reads) | set(reduction.reads_for(bound.params) if reduction else ())
        missing = sorted(needs - made)
        if missing:
            raise InputError(
                f"{where}: step {step.name} needs {missing[0]!r}, which no earlier step makes"
            )
        made |= set(step.writes)
    names = [bound.name for bound in steps]
    twice = sorted({n for n in names if names.count(n) > 1})
    if twice:
        raise InputError(f"{where}: step {twice[0]} stands there twice")
    lacking = [name for name in RESULTS if name not in made]
    if lacking:
        raise InputError(f"{where}: no step makes {lacking[0]!r}, which the L2 file needs")
