"""``python -m roman_dask_l2``."""

from __future__ import annotations

import sys

from .cli.app import main

sys.exit(main())
