"""Attempts at several exposures, side by side: what they make is made together.

An attempt is a generator: it does what is its own, and yields what it wants to have made. So
each keeps its lock, its record and its clean-up, whatever becomes of the others.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..engine.options import RunOptions
from ..io.arrays import keep_open
from ..products.calibration import alike
from ..products.job import Job
from ..products.memory import exposures_together
from ..products.provenance import Product
from ..system.stopping import heard

log = logging.getLogger(__name__)

Record = dict[str, Any]
"""A line of the manifest; or ``status`` ``finished`` (there was nothing to do) or ``held``."""


@dataclass
class Spent:
    """An exposure's share of the time that several have taken together.

    Attributes
    ----------
    seconds, cpu_seconds : float
        On the clock, and of the processors.
    together : int
        How many they were; 1 if each was on its own in the end.
    """

    seconds: float = 0.0
    cpu_seconds: float = 0.0
    together: int = 1


@dataclass(frozen=True)
class Request:
    """What an attempt wants to have made.

    Attributes
    ----------
    product : str
        ``l2`` or ``noise``.
    job : Job
    options : RunOptions
    lost : callable
        Whether others have taken the exposure over, and may have removed its files.
    spent : Spent
        Gets the time that it has taken.
    """

    product: Product
    job: Job
    options: RunOptions
    lost: Callable[[], bool]
    spent: Spent = field(default_factory=Spent)

    def like(self, other: Request) -> bool:
        """Whether both can be made together."""
        one, two = self.job.config.NOISE, other.job.config.NOISE
        return (
            self.product == other.product
            and self.options == other.options
            and alike(self.job, other.job)
            and (self.product == "l2" or (one and one.LAYER) == (two and two.LAYER))
        )


Course = Generator[Request, None, Record]
"""An attempt: goes on when what it asks for is made, or raises what has gone wrong with it."""


def run_attempts(courses: Sequence[Course]) -> list[Record]:
    """Run attempts to their end.

    Returns
    -------
    list of dict
        The record of each.

    Raises
    ------
    KeyboardInterrupt
        Once all of them have cleaned up.
    """
    records: dict[int, Record] = {}
    waiting: dict[int, Request] = {}

    def advance(i: int, error: Exception | None = None) -> None:
        course = courses[i]
        try:
            waiting[i] = next(course) if error is None else course.throw(error)
        except StopIteration as end:
            records[i] = end.value

    try:
        for i in range(len(courses)):
            advance(i)
        while waiting:
            first = next(iter(waiting.values()))
            ours = [i for i, other in waiting.items() if first.like(other)]
            errors = _make([waiting.pop(i) for i in ours])
            for i, error in zip(ours, errors, strict=True):
                advance(i, error)
    except KeyboardInterrupt:
        for i, course in enumerate(courses):
            if i not in records:
                _interrupt(course)
        raise
    return [records[i] for i in range(len(courses))]


def _interrupt(course: Course) -> None:
    """Have an attempt clean up; the one that was interrupted has done so."""
    try:
        course.throw(KeyboardInterrupt())
    except (KeyboardInterrupt, StopIteration):
        pass
    except Exception:  # the others are to clean up, too
        log.debug("an attempt was not cleaned up", exc_info=True)


def _make(asked: Sequence[Request]) -> list[Exception | None]:
    """Make what is `like`, as many at a time as the memory allows; what was wrong with each."""
    keep_open({path for one in asked for path in files_read(one.job)})
    first = asked[0]
    most = exposures_together(first.job, first.options, len(asked), first.product)
    errors: list[Exception | None] = []
    for begin in range(0, len(asked), most):
        errors += _some(asked[begin : begin + most])
    return errors


def _some(asked: Sequence[Request]) -> list[Exception | None]:
    """Make products together; one by one if that fails, as the fault is one exposure's, but none of
    exposures that others have taken over meanwhile."""
    from ..products.level2 import calibrate_together
    from ..products.noise_layers import generate_noise_together

    if len(asked) == 1:
        return [_alone(asked[0])]
    make = calibrate_together if asked[0].product == "l2" else generate_noise_together
    try:
        with heard(), _shared(asked):
            make([one.job for one in asked], asked[0].options)
    except Exception as error:
        log.debug("%d exposures together: %s; now one by one", len(asked), error)
        return [error if one.lost() else _alone(one) for one in asked]
    return [None] * len(asked)


def _alone(asked: Request) -> Exception | None:
    from ..products.level2 import calibrate
    from ..products.noise_layers import generate_noise

    try:
        with heard(), _shared([asked]):
            if asked.product == "l2":
                calibrate(asked.job, asked.options)
            else:
                generate_noise(asked.job, asked.options)
    except Exception as error:
        return error
    return None


@contextlib.contextmanager
def _shared(asked: Sequence[Request]) -> Iterator[None]:
    """Share the time of the block out."""
    clock, cpu = time.monotonic(), time.process_time()
    try:
        yield
    finally:
        for one in asked:
            one.spent.together = len(asked)
            one.spent.seconds += (time.monotonic() - clock) / len(asked)
            one.spent.cpu_seconds += (time.process_time() - cpu) / len(asked)


def files_read(job: Job) -> set[str]:
    """Paths of the files that tasks of an exposure read."""
    return {str(path) for path in (job.config.IN, *job.references.values())}
