"""C: a comment, which makes labels different."""

from __future__ import annotations

from .command import ActsOn, Command
from .label_text import LabelText


def parse(text: LabelText) -> None:
    text.take("[a-z0-9_]+")
    text.argument("C", "")


command = Command(
    letter="C",
    name="comment",
    grammar='"C" { "a".."z" | digit | "_" }',
    acts_on=ActsOn.NOTHING,
    parse=parse,
    forms=(("`C...`", "nothing; tells labels apart"),),
    repeats=True,
)
