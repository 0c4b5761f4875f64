"""How a product is made: with which scheduler, in which tiles, in how much memory."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from distributed import Client


@dataclass(frozen=True)
class RunOptions:
    """How to run. No number of a product depends on any of these.

    Attributes
    ----------
    scheduler : str or distributed.Client
        ``local`` (threads of this process), ``synchronous``, or what `running` yields.
    threads : int or None
        Worker threads; None: the processors of this process.
    tile : int, str, tuple of int or None
        Size of the tiles: ``256``, ``"128x4096"`` or ``(rows, columns)``, pixels; None: 64 full
        rows.
    memory : str, float or None
        Resident memory to stay under, such as ``1GB``: chooses tiles and threads.
    per_step : bool
        One Dask layer for each step, instead of one task for each tile.
    show_progress : bool
        A progress bar on a terminal, a line now and then elsewhere.
    """

    scheduler: str | Client = "local"
    threads: int | None = None
    tile: str | int | tuple[int, int] | None = None
    memory: str | float | None = None
    per_step: bool = False
    show_progress: bool = False

    @property
    def here(self) -> bool:
        """Whether all tasks run in this process."""
        return self.scheduler in ("local", "synchronous")

    @classmethod
    def of(cls, options: RunOptions | None, changes: Mapping[str, Any]) -> RunOptions:
        """`options` (the defaults if None) with some of them changed.

        Raises
        ------
        TypeError
            If a name in `changes` is not an option.
        """
        known = {field.name for field in dataclasses.fields(cls)}
        if unknown := sorted(set(changes) - known):
            raise TypeError(f"unknown options {unknown}, expected some of {sorted(known)}")
        return dataclasses.replace(options or cls(), **changes)
