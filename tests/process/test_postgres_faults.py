"""What befalls a database under three servers and their workers, each fault once or twice, while clients post.

`make prove` does the same for longer, at random.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import pytest
from prove import postgres_faults as faults
from prove.postgres_faults import Stage, staged
from prove.proof import Figure, Size, Trial

import postgres

pytestmark = [pytest.mark.process, pytest.mark.timeout(120)]


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """Under load from the first test to the last."""
    postgres.require()
    with staged(Trial(tmp_path_factory.mktemp("stage"), 7, Size.SHORT)) as stage:
        yield stage


def assert_holds(figures: Iterable[Figure]) -> None:
    assert [figure for figure in figures if not figure.holds] == []


@pytest.mark.parametrize("fault", faults.FAULTS, ids=lambda fault: fault.__name__)
def test_workers_of_every_server_work_again_in_time_after(fault: faults.Fault, stage: Stage) -> None:
    assert_holds(fault(stage))


def test_after_all_that_nothing_is_lost_twice_there_or_miscounted(stage: Stage) -> None:
    assert_holds(faults.judged(stage))
    assert len(stage.journal.ids) > 100
