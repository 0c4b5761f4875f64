"""``python -m roman_dask_l2``."""

import sys

from .cli import main

sys.exit(main())
