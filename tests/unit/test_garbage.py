"""The collector of cyclic garbage, as a server sets it: in a process of its own, because that is for good."""

from __future__ import annotations

import subprocess
import sys

SCRIPT = """
import gc
from jobpipe.runtime.garbage import YOUNG, look_seldom, spare_the_start
spare_the_start()
look_seldom()
print(gc.get_freeze_count() > 1000, gc.get_threshold()[0] == YOUNG)
class Knot: pass
knots = []
for _ in range(3 * YOUNG):
    knot = Knot()
    knot.itself = knot
    knots.append(__import__("weakref").ref(knot))
print(any(knot() is None for knot in knots))
"""


def test_what_the_start_made_is_spared_and_what_comes_later_is_still_collected() -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["True", "True", "True"]
