"""Sphinx configuration."""

import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

import cli_table  # noqa: E402
import config_table  # noqa: E402
import fit_tables  # noqa: E402
import noise_tables  # noqa: E402
import step_tables  # noqa: E402

from roman_dask_l2.system.versions import __version__  # noqa: E402

cli_table.write(HERE / "_generated")
config_table.write(HERE / "_generated")
step_tables.write(HERE / "_generated")
noise_tables.write(HERE / "_generated")
fit_tables.write(HERE / "_generated")

project = "roman-dask-l2"
author = "roman-dask-l2 developers"
project_copyright = "2026, roman-dask-l2 developers"
release = version = __version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "mathml", "numpydoc"]
html_math_renderer = "mathml"
source_suffix = {".md": "markdown"}
exclude_patterns = ["_build", "_generated"]
myst_enable_extensions = ["amsmath", "deflist", "dollarmath"]
myst_heading_anchors = 3
autosummary_generate = False
numpydoc_show_class_members = False

html_theme = "furo"
html_title = f"roman-dask-l2 {release}"
