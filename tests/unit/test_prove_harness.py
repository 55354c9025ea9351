"""The harness of the proofs can find what it looks for: each check is shown a case that must not pass."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace
from prove import report
from prove.checker import books, runs
from prove.disk import Event, Platter
from prove.fill import BEGIN, END, filled, joined
from prove.history import History
from prove.proof import Figure, Size, none

AT = "2026-11-22T00:00:01.000Z"
AT_MS = 1_795_305_601_000


def task(id: str = "a", **fields: Any) -> dict[str, Any]:
    done = {
        "id": id, "status": "done", "attempts": 1, "failures": 0, "lost": 0, "max_retries": 3,
        "started_at": AT, "finished_at": AT,
    }  # fmt: skip
    return done | fields


def journal(folder: Path, *lines: str) -> Any:
    path = folder / "runs"
    path.write_text("".join(f"{line}\n" for line in lines))
    return runs(path)


def test_books_that_are_in_order_show_nothing(tmp_path: Path) -> None:
    begun = journal(tmp_path, f"begin a 1 7 {AT_MS - 5}", f"end a 1 7 {AT_MS}")
    assert all(not found for found in books({"a"}, [task()], begun))


@pytest.mark.parametrize(
    ("what", "tasks", "lines"),
    [
        ("lost", [], []),
        ("stuck", [task(status="running", finished_at=None)], [f"begin a 1 7 {AT_MS}"]),
        ("repeated", [task()], [f"begin a 1 7 {AT_MS}", f"begin a 1 8 {AT_MS}"]),
        ("repeated", [task(attempts=2, failures=1)], [f"begin a 2 7 {AT_MS}", f"begin a 2 8 {AT_MS}"]),
        ("after_end", [task()], [f"begin a 1 7 {AT_MS + 1}"]),
        ("over_limit", [task(status="failed", attempts=5, failures=5)], [f"begin a 1 7 {AT_MS}"]),
        ("over_limit", [task(attempts=4, lost=4)], [f"begin a 1 7 {AT_MS}"]),
        ("over_limit", [task(attempts=2)], [f"begin a 1 7 {AT_MS}"]),
        ("unrun", [task()], []),
    ],
)
def test_each_kind_of_harm_is_found(tmp_path: Path, what: str, tasks: list[Any], lines: list[str]) -> None:
    assert getattr(books({"a"}, tasks, journal(tmp_path, *lines)), what) == {"a"}


def test_a_torn_last_line_of_a_journal_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "runs"
    path.write_text("begin a 1 7 100\nbegin b 1")
    assert [run.task for run in runs(path)] == ["a"]


def test_a_cut_keeps_what_was_synced_and_may_lose_the_rest() -> None:
    platter = Platter()
    for event in (
        Event("write", "f", 0, b"safe"),
        Event("sync", "f"),
        Event("write", "f", 4, b"x" * 2000),
        Event("truncate", "f", 1500),
    ):
        platter.take(event)
    images = {platter.cut(random.Random(seed))["f"] for seed in range(200)}
    assert all(image.startswith(b"safe") for image in images)
    assert {b"safe", b"safe" + b"x" * 1496} <= images
    assert len(images) > 20, "torn in many ways"
    assert platter.cut(None)["f"] == b"safe" + b"x" * 1496


def test_a_deletion_that_was_not_synced_may_come_back() -> None:
    platter = Platter({"f": b"old"})
    platter.take(Event("delete", "f"))
    assert {platter.cut(random.Random(seed)).get("f") for seed in range(50)} == {None, b"old"}
    platter.take(Event("delete", "f", 1))
    assert {platter.cut(random.Random(seed)).get("f") for seed in range(50)} == {None}


def test_a_history_allows_what_was_answered_or_asked_for_since() -> None:
    history = History()
    history.know(history.ask(["a"], "queued", 1), 3)
    history.ask(["a"], "running", 5)
    assert history.wrong({}, 0) == []
    assert history.wrong({"a": "queued"}, 2) == history.wrong({}, 2) == []
    assert history.wrong({}, 3), "it was acknowledged"
    assert history.wrong({"a": "running"}, 4), "nobody had asked for it"
    assert history.wrong({"a": "running"}, 5) == history.wrong({"a": "queued"}, 9) == []
    assert history.wrong({"a": "queued", "b": "queued"}, 9), "nobody inserted b"


def run_of(*figures: Figure) -> report.Run:
    result = report.Result("kill", (1,), "a title", list(figures), 2.0)
    return report.Run({"cores": "2"}, "2026-11-22", Size.SHORT, 7, [result])


def test_a_figure_over_its_bound_breaks_the_promise() -> None:
    assert report.table(run_of(none("lost", 0))).count("held") == 1
    table = report.table(run_of(none("lost", 2), Figure("cuts", 3, at_least=3)))
    assert "NOT HELD" in table
    assert "! lost" in table
    assert "! cuts" not in table


def test_proofs_that_were_run_one_by_one_make_a_table_for_each_size_in_the_order_of_the_promises() -> None:
    def of(name: str, size: Size = Size.FULL) -> report.Run:
        run = run_of(none("lost", 0))
        return replace(run, size=size, results=[replace(run.results[0], name=name)])

    tables = joined([of("schema"), of("kill"), of("fuzz", Size.SHORT), of("power"), of("power", Size.SHORT)])
    assert [(run.size, [result.name for result in run.results]) for run in tables] == [
        (Size.FULL, ["kill", "power", "schema"]),
        (Size.SHORT, ["fuzz"]),
    ]


def test_the_page_is_filled_between_its_marks() -> None:
    page = filled(f"before\n{BEGIN}\nold\n{END}\nafter", [run_of(none("lost", 0))])
    assert page.startswith(f"before\n{BEGIN}")
    assert page.endswith(f"{END}\nafter")
    assert "old" not in page
    assert "lost **0**" in page
    assert "seed 7" in page
