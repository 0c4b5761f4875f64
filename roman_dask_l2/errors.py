"""The one exception that means "your input is wrong"."""

from __future__ import annotations

from collections.abc import Iterable


class InputError(ValueError):
    """Something the user gave (file, key, recipe, option) cannot be used.

    The command line prints each problem as one line and exits with status 2, without a traceback.

    Parameters
    ----------
    problems : str or iterable of str
        One clear sentence per problem, naming the file, key or layer and what was expected.
    """

    def __init__(self, problems: str | Iterable[str]) -> None:
        self.problems = [problems] if isinstance(problems, str) else list(problems)
        super().__init__("; ".join(self.problems))

    def __reduce__(self):  # survives the trip between processes
        return (type(self), (self.problems,))
