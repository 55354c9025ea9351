"""Servers that are killed while schedules fire each second: the short form of the proof."""

from __future__ import annotations

from pathlib import Path

import pytest
from prove.proof import Size, Trial
from prove.schedules import schedules

pytestmark = [pytest.mark.process, pytest.mark.timeout(240)]


def test_each_second_is_made_once_over_kills_and_jumps(tmp_path: Path) -> None:
    figures = schedules(Trial(tmp_path, 3, Size.SHORT))
    assert [figure for figure in figures if not figure.holds] == []
