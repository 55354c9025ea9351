"""The one source of chance for ids and jitter: a generator of our own, seeded by the system, anew after a fork.

Python's global generator belongs to the program around us: a `random.seed(42)` at the head of a user's module would
make the ids of two processes collide, and two workers back off in step.
"""

from __future__ import annotations

import os
import random as random_

_generator = random_.Random()
random = _generator.random
"""A float in [0, 1)."""
getrandbits = _generator.getrandbits
"""A whole number of so many random bits."""

if hasattr(os, "register_at_fork"):  # not on Windows, which cannot fork
    # The same object is seeded again, so that whoever holds its methods is served too.
    os.register_at_fork(after_in_child=_generator.seed)
