"""Sphinx configuration."""

import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

from roman_dask_l2.system.versions import __version__  # noqa: E402

project = "roman-dask-l2"
author = "roman-dask-l2 developers"
project_copyright = "2026, roman-dask-l2 developers"
release = version = __version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "mathml", "numpydoc"]
html_math_renderer = "mathml"
source_suffix = {".md": "markdown"}
exclude_patterns = ["_build"]
myst_enable_extensions = ["amsmath", "deflist", "dollarmath"]
myst_heading_anchors = 3
autosummary_generate = False
numpydoc_show_class_members = False

html_theme = "furo"
html_title = f"roman-dask-l2 {release}"
