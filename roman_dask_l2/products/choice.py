"""Which reference files a run uses: those of CALDIR, or those that CRDS chooses."""

from __future__ import annotations

from pathlib import Path

import yaml

from ..config.caldir import as_given
from ..config.model import Config, load_config
from ..config.recipe import Recipe, load_recipe
from ..config.yaml_file import display_name
from ..core.reference_types import OWN, REFTYPES, observatory_name
from ..core.step import BoundStep
from ..engine.plan import input_names
from ..io.crds import Choice, choose
from ..io.layout import Layout, read_layout
from ..io.references import Inputs


def used_arrays(recipe: Recipe) -> dict[str, str]:
    """Arrays of the input files that a recipe asks for, each with the first step that does."""
    found: dict[str, str] = {}
    for bound in recipe.steps:
        for name in input_names(bound):
            found.setdefault(name, bound.name)
    return found


def used_keys(config: Config, recipe: Recipe, l1: Layout) -> list[str]:
    """Keys of CALDIR that a recipe uses for an exposure, in the order of CALDIR.

    The gain is always among them: the Level 2 file has its median.
    """
    keys = {name.partition(".")[0] for name in used_arrays(recipe)} | {"gain"}
    own_wcs = config.FITSWCS is not None or config.GWCS is not None
    has_wcs = own_wcs or l1.value("roman", "meta", "wcs") is not None
    if not has_wcs or any(bound.name == "assign_wcs" for bound in recipe.steps):
        keys.add("distortion")
    return [key for key in REFTYPES if key in keys]


def references_of(
    config: Config, recipe: Recipe, l1: Layout
) -> tuple[dict[str, Path], Choice | None]:
    """The reference files of a run by their key in CALDIR, and the choice of CRDS if it made it.

    Raises
    ------
    InputError
        If CRDS cannot choose.
    """
    if not config.crds:
        return config.references(), None
    choice = choose(l1, used_keys(config, recipe, l1))
    return dict(choice.files), choice


def suggestion(exposure: Path, graph: str | None = None) -> str:
    """The block CALDIR with the files that CRDS chooses for an exposure, as YAML text.

    Parameters
    ----------
    exposure : Path
        Level 1 file.
    graph : str, optional
        Recipe that needs them. Default: that of a configuration without GRAPH.

    Returns
    -------
    str
        With comments that say where they come from and what there is not.

    Raises
    ------
    InputError
    """
    given = {"IN": str(exposure), "OUT": f"{exposure.stem}_l2.asdf", "CALDIR": "crds"}
    config = load_config(given | ({} if graph is None else {"GRAPH": graph}))
    recipe = load_recipe(config.GRAPH, config)
    l1 = read_layout(config.IN)
    keys = used_keys(config, recipe, l1)
    choice = choose(l1, keys)
    lines = [
        f"# {l1.path}",
        f"# recipe {recipe.name}, CRDS context {choice.context}, crds {choice.software}",
    ]
    lines += [f"# {observatory_name(key)}: N/A, {choice.context} says" for key in choice.absent]
    lines += [f"# {key}: the survey's, CRDS has none" for key in keys if key in OWN]
    files = {observatory_name(k): str(path.absolute()) for k, path in choice.files.items()}
    block = yaml.safe_dump({"CALDIR": files}, sort_keys=False, allow_unicode=True, width=4096)
    return "\n".join(lines) + "\n" + block


def missing(
    config: Config, steps: list[BoundStep], inputs: Inputs, crds: Choice | None
) -> list[str]:
    """Reference files and arrays without which a step cannot run, one sentence each."""
    needed: dict[str, str] = {"gain.data": "the Level 2 file"}
    for bound in steps:
        for name in input_names(bound, needed=True):
            needed.setdefault(name, f"step {bound.name}")
    problems: dict[str, str] = {}
    for name, who in needed.items():
        key = name.partition(".")[0]
        if inputs.available(name):
            continue
        if key in REFTYPES and key not in inputs.layouts:
            problems.setdefault(key, _no_file(config, key, who, crds))
        else:
            problems[name] = f"{who} needs {name}, which no file in CALDIR gives"
    return [as_given(line, config.raw.get("CALDIR")) for line in problems.values()]


def _no_file(config: Config, key: str, who: str, crds: Choice | None) -> str:
    if crds is None:
        return (
            f"{display_name(config.source)}: required key CALDIR.{key} is missing, {who} needs it"
        )
    if key in crds.absent:
        return f"CALDIR: crds: {crds.context} says that there is no {key}, {who} needs it"
    return f"CALDIR: crds: CRDS has no files of the type {key}, {who} needs one"
