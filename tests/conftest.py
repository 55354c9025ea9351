"""What every test starts from: the thread switch interval that `make test_race` asks for."""

from __future__ import annotations

import os
import sys

SWITCH_INTERVAL = "JOBPIPE_TEST_SWITCH_INTERVAL"
"""Seconds between thread switches: tiny ones let threads interleave where they rarely do."""

if SWITCH_INTERVAL in os.environ:
    sys.setswitchinterval(float(os.environ[SWITCH_INTERVAL]))
