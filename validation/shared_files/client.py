"""The program as on a node of its own: ``client.py NODE ARGUMENTS...``.

It has a host name and, where ``unshare`` gave it one, a process namespace of its own; nobody there
sees the other's processes. Signs of life and the time after which one without is dead are a tenth
of what they are (1.5 s, 12 s), so that the tests need not wait for minutes.
"""

from __future__ import annotations

import os
import socket
import sys

if sys.argv[1] != "-":
    socket.sethostname(sys.argv[1])

from roman_dask_l2.batch import locks  # noqa: E402

locks.BEAT, locks.DEAD_AFTER = locks.BEAT / 10, locks.DEAD_AFTER / 10
locks.CLOCKS = locks.CLOCKS / 10

if __name__ == "__main__":
    if "STALE" in os.environ:  # no file system, but a model of one
        import stale

        stale.install(os.getcwd(), float(os.environ["STALE"]))
    del sys.argv[1]
    from roman_dask_l2.cli.app import main

    sys.exit(main())
