"""How what pages say is compared with what is printed."""

from __future__ import annotations

import pytest
from printed import difference

TABLE = "exposure  status  seconds  peak GB\nsca=1     done        3.3     0.29\n2 done"


@pytest.mark.parametrize(
    ("said", "printed", "problem"),
    [
        ("02:13 tiles  1.4 s", "09:59  tiles 12.0 s\n", ""),
        ("02:13:09 took 140 MB", "09:59:00 took 12 MB", ""),
        ("in 3 min 20 s", "in 5 min 1 s", ""),
        ("a (504, 504)", "a (248, 248)", "other numbers: 504 is 248, 504 is 248"),
        ("8 tiles", "9 tiles", "other numbers: 8 is 9"),
        ("sum +1.20e-05", "sum +1.22e-05", ""),
        ("sum +1.20e-05", "sum +1.23e-05", "other numbers: +1.20e-05 is +1.23e-05"),
        ("sum +1.2e-05", "sum -1.2e-05", "other numbers: +1.2e-05 is -1.2e-05"),
        ("0.0473 DN/s", "0.0480 DN/s", ""),
        ("0.0473 DN/s", "0.0490 DN/s", "other numbers: 0.0473 is 0.0490"),
        ("0.01 of it", "0.02 of it", ""),  # the last digit
        ("RS2 in l2.asdf", "RS3 in l2.asdf", "other words"),
        ("wrote ...l2.asdf (4.05%)", "12 wrote /x/l2.asdf (4.05%)", "other words"),
        ("...wrote ...l2.asdf (4.05%)", "12 wrote /x/l2.asdf (4.06%)", ""),
        ("...wrote ...l2.asdf (4.05%)", "12 wrote /x/l2.asdf (3.05%)",
         "other numbers: 4.05 is 3.05"),
        ("one\ntwo", "zero\none \ntwo\nthree", ""),
        ("one\ntwo", "one\nthree\ntwo", "other words"),
        ("done 3", "done x", "other words"),
        ("done", "done 3", "other words"),
        ("1 done", "2 done\n1 done", ""),  # wherever it stands
        (TABLE, TABLE.replace("3.3", "9.9").replace("0.29", "0.31"), ""),
        (TABLE, TABLE.replace("2 done", "1 done"), "other numbers: 2 is 1"),
        (TABLE, TABLE.replace("sca=1", "sca=2"), "other numbers: 1 is 2"),
    ],
)  # fmt: skip
def test_difference(said, printed, problem):
    assert difference(said, printed) == problem


def test_numbers_that_are_declared_to_vary():
    assert difference("tiles of 256 x 512", "tiles of 64 x 512", numbers=False) == ""
    assert difference("tiles of 256 x 512", "tile of 256 x 512", numbers=False) == "other words"
