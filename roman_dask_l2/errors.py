"""Exceptions that mean something to the command line."""

from __future__ import annotations

from collections.abc import Iterable


class InputError(ValueError):
    """Something the user gave (file, key, recipe, option) cannot be used.

    The command line prints each problem as one line and exits with status 2, without a traceback.

    Parameters
    ----------
    problems : str or iterable of str
        One clear sentence per problem, naming the file, key or layer and what was expected.

    Attributes
    ----------
    problems : list of str
        All of them; the message joins them with semicolons.
    """

    def __init__(self, problems: str | Iterable[str]) -> None:
        self.problems = [problems] if isinstance(problems, str) else list(problems)
        super().__init__("; ".join(self.problems))

    def __reduce__(self):  # survives the trip between processes
        return (type(self), (self.problems,))


class ClusterError(RuntimeError):
    """The Dask cluster cannot do the work: it has no workers, its scheduler is gone.

    The command line prints `details`, then the message as one line, and exits with status 3.

    Parameters
    ----------
    message : str
    details : str
        What helps to find the cause, such as the job script.
    """

    def __init__(self, message: str, details: str = "") -> None:
        super().__init__(message)
        self.details = details

    def __reduce__(self):
        return (type(self), (str(self), self.details))


class NoWorkers(ClusterError):
    """No worker has come within the limit, or all are gone and none came back."""


class WorkersDied(RuntimeError):
    """One task has ended too many workers, most often for want of memory."""
