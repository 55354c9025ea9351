"""`GET /metrics`: read by Prometheus' own parser, held against its rules for names, and against what happened."""

from __future__ import annotations

import json
import logging
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client import Metric
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse

from jobpipe.core.errors import StorageError
from jobpipe.core.lifecycle import Kind
from jobpipe.engine import tally as tally_
from jobpipe.engine.workers import Worker

from .conftest import Server, Start
from .test_api_protocol import connect
from .test_api_working import done, lease, settle

DEPLOY = Path(__file__).parents[2] / "deploy"
OPENMETRICS = "application/openmetrics-text; version=1.0.0"

Labels = frozenset[tuple[str, str]]


async def families(server: Server) -> dict[str, Metric]:
    response = await server.get("/metrics")
    assert response.status_code == 200, response.text
    return {family.name: family for family in parse(response.text)}


async def samples(server: Server, name: str) -> dict[Labels, float]:
    """The values of one series name, by their labels."""
    found = [sample for family in (await families(server)).values() for sample in family.samples]
    return {frozenset(sample.labels.items()): sample.value for sample in found if sample.name == name}


async def value(server: Server, name: str, **labels: str) -> float | None:
    return (await samples(server, name)).get(frozenset(labels.items()))


async def lived(server: Server) -> None:
    """A little of everything."""
    await server.enqueue(
        [{"id": "a", "handler": "h"}, {"id": "b", "queue": "q", "handler": "h", "max_retries": 0}]
    )
    await server.enqueue([{"id": "c", "queue": "q", "delay": 60}, {"id": "d", "queue": "q", "delay": 60}])
    server.clock.advance(1.5)
    await server.run_one()
    claim = await server.claim()
    server.clock.advance(0.3)
    await server.settle(claim, Kind.TIMED_OUT, error_type="timed_out", message="m")
    await server.post("/tasks/c/cancel", {})


async def test_what_is_told_is_well_formed_by_prometheus_own_rules(server: Server) -> None:
    await lived(server)
    text = (await server.get("/metrics")).text
    found = list(parse(text))
    series = Counter((s.name, frozenset(s.labels.items())) for family in found for s in family.samples)
    assert max(series.values()) == 1, "no series twice"
    assert max(Counter(family.name for family in found).values()) == 1
    for family in found:
        assert family.documentation, family.name
        assert family.documentation.endswith(".")
        assert family.type in ("counter", "gauge", "histogram"), family.name
        assert re.fullmatch(r"(jobpipe|process)_[a-z_]+", family.name), family.name
        # promtool's: base units, the suffix _total for counters alone, none that a type adds by itself.
        assert not re.search(r"_(milliseconds|ms|minutes|hours|kilobytes|megabytes|percent)$", family.name)
        assert not family.name.endswith(("_count", "_sum", "_bucket"))
        totals = {sample.name.endswith("_total") for sample in family.samples}
        assert totals <= {family.type == "counter"}, family.name
        if family.type == "histogram":
            _check_histogram(family)


def _check_histogram(family: Metric) -> None:
    by_labels: dict[Labels, dict[str, float]] = {}
    for sample in family.samples:
        labels = frozenset(item for item in sample.labels.items() if item[0] != "le")
        by_labels.setdefault(labels, {})[sample.labels.get("le", sample.name)] = sample.value
    for values in by_labels.values():
        bounds = sorted((float(le), n) for le, n in values.items() if not le.startswith("jobpipe"))
        assert [n for _, n in bounds] == sorted(n for _, n in bounds), "buckets add up"
        assert bounds[-1] == (float("inf"), values[f"{family.name}_count"])


async def test_all_names_of_the_contract_are_there(server: Server) -> None:
    await lived(server)
    names = set(await families(server))
    assert names >= {
        "jobpipe_tasks", "jobpipe_tasks_enqueued", "jobpipe_tasks_finished", "jobpipe_tasks_retried",
        "jobpipe_tasks_rescued", "jobpipe_task_wait_seconds", "jobpipe_task_run_seconds", "jobpipe_queue_capacity",
        "jobpipe_queue_oldest_ready_seconds", "jobpipe_workers", "jobpipe_workers_busy", "jobpipe_commit_seconds",
        "jobpipe_commit_tasks", "jobpipe_http_requests", "jobpipe_build_info", "jobpipe_leases_lost",
        "jobpipe_storage_up", "jobpipe_log_lines_lost", "process_resident_memory_bytes", "process_start_time_seconds",
    }  # fmt: skip


async def test_openmetrics_is_given_to_who_asks_for_it(server: Server) -> None:
    await lived(server)
    response = await server.get("/metrics", accept=OPENMETRICS)
    assert response.headers["content-type"].startswith("application/openmetrics-text")
    assert "jobpipe_tasks_enqueued" in {family.name for family in parse_openmetrics(response.text)}
    plain = await server.get("/metrics")
    assert plain.headers["content-type"].startswith("text/plain; version=0.0.4")
    head = await server.client.head("/metrics")
    assert (head.status_code, head.content) == (200, b"")


async def test_tasks_are_counted_by_where_they_stand_and_how_they_ended(start: Start) -> None:
    server = await start(queue_size=7, workers=lambda: [Worker("w", 0, total=4, busy=1)])
    await lived(server)
    assert await value(server, "jobpipe_tasks", queue="q", status="queued") == 1
    assert await value(server, "jobpipe_tasks", queue="default", status="done") == 1
    assert await value(server, "jobpipe_tasks_enqueued_total", queue="q") == 3
    assert await samples(server, "jobpipe_tasks_finished_total") == {
        frozenset({("queue", "default"), ("handler", "h"), ("outcome", "done")}): 1,
        frozenset({("queue", "q"), ("handler", "h"), ("outcome", "timed_out")}): 1,
        frozenset({("queue", "q"), ("handler", "default"), ("outcome", "cancelled")}): 1,
    }
    assert await value(server, "jobpipe_queue_capacity") == 7
    assert await value(server, "jobpipe_workers") == 4
    assert await value(server, "jobpipe_workers_busy") == 1
    assert await value(server, "jobpipe_storage_up") == 1


async def test_waits_and_runs_are_measured_by_handler(server: Server) -> None:
    await lived(server)
    assert await value(server, "jobpipe_task_wait_seconds_count", handler="h") == 2
    assert await value(server, "jobpipe_task_wait_seconds_sum", handler="h") == pytest.approx(3.0)
    assert await value(server, "jobpipe_task_run_seconds_sum", handler="h") == pytest.approx(0.3)
    assert await value(server, "jobpipe_task_run_seconds_bucket", handler="h", le="0.2") == 1
    assert await value(server, "jobpipe_task_run_seconds_bucket", handler="h", le="0.5") == 2


async def test_retried_rescued_and_refused_are_counted_and_released_is_none_of_them(server: Server) -> None:
    await server.enqueue(id="a")
    for kind in (Kind.FAILED, Kind.LOST, Kind.RELEASED):
        await server.run_one(kind, error_type="E", message="m", retry_in=0.0)
        server.clock.advance(400)
    (task,) = await lease(server)
    for outcome in ("done", "released"):
        await settle(server, {**done(task), "outcome": outcome, "lease_id": "no.such.1"})
    assert await value(server, "jobpipe_tasks_retried_total") == 2
    assert await value(server, "jobpipe_tasks_rescued_total") == 1
    assert await value(server, "jobpipe_leases_lost_total") == 2
    assert await value(server, "jobpipe_task_run_seconds_count", handler="default") == 2


async def test_the_age_of_the_oldest_ready_task_is_told(server: Server) -> None:
    await server.enqueue([{"queue": "a"}, {"queue": "b", "delay": 100}])
    server.clock.advance(2.5)
    assert await value(server, "jobpipe_queue_oldest_ready_seconds", queue="a") == 2.5
    assert await value(server, "jobpipe_queue_oldest_ready_seconds", queue="b") == 0


async def test_commits_are_counted_with_their_tasks(server: Server) -> None:
    await server.enqueue([{}] * 10)
    (claim,) = await server.queue.claim("elsewhere", 1, lease_s=30, local=False)
    await server.settle(claim)
    assert await value(server, "jobpipe_commit_tasks_count") == 3
    assert await value(server, "jobpipe_commit_tasks_sum") == 12
    assert await value(server, "jobpipe_commit_seconds_count") == 3


async def test_answers_are_counted_by_template_and_status_whichever_lane_gave_them(server: Server) -> None:
    await server.enqueue(id="a")
    await server.enqueue(id="a")
    await server.post("/enqueue", b"{")
    for path in ("/tasks/a", "/tasks/b", "/tasks/a?wait=0", "/task?id=a", "/nope/secret", "/stats"):
        await server.get(path)
    await server.client.delete("/stats")
    counted = await samples(server, "jobpipe_http_requests_total")
    by_answer = {(dict(labels)["route"], dict(labels)["status"]): n for labels, n in counted.items()}
    assert by_answer == {
        ("/enqueue", "202"): 1,
        ("/enqueue", "409"): 1,
        ("/enqueue", "400"): 1,
        ("/tasks/{id}", "200"): 2,
        ("/tasks/{id}", "404"): 1,
        ("/task", "200"): 1,
        ("none", "404"): 1,
        ("/stats", "200"): 1,
        ("/stats", "405"): 1,
    }


async def test_what_the_protocol_refuses_by_itself_is_counted(server: Server) -> None:
    if server.port is None:
        pytest.skip("needs a connection")
    async with connect(server) as wire:
        wire.send(b"no HTTP at all\r\n\r\n")
        await wire.refusal(400, "invalid")
    assert await value(server, "jobpipe_http_requests_total", route="none", status="400") == 1


async def test_names_from_outside_fill_no_memory(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tally_, "MOST_HANDLERS", 3)
    monkeypatch.setattr(tally_, "MOST_PAIRS", 3)
    for n in range(6):
        await server.enqueue(handler=f"h{n}")
        await server.run_one()
    waits = await samples(server, "jobpipe_task_wait_seconds_count")
    assert {dict(labels)["handler"]: n for labels, n in waits.items()} == {
        "h0": 1,
        "h1": 1,
        "h2": 1,
        "other": 3,
    }
    ends = await samples(server, "jobpipe_tasks_finished_total")
    assert sorted(dict(labels)["handler"] for labels in ends) == ["h0", "h1", "h2", "other"]


async def test_a_label_of_any_text_stays_one_label(server: Server) -> None:
    assert 'queue="a.b-c"' not in (await server.get("/metrics")).text
    await server.enqueue(queue="a.b-c")
    assert await value(server, "jobpipe_tasks_enqueued_total", queue="a.b-c") == 1


async def test_a_scrape_succeeds_while_the_storage_is_away_and_says_so(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def away() -> Any:
        raise StorageError("away")

    await server.enqueue({})
    monkeypatch.setattr(server.queue, "queues", away)
    assert await value(server, "jobpipe_storage_up") == 0
    assert await samples(server, "jobpipe_tasks") == {}
    assert await value(server, "jobpipe_tasks_enqueued_total", queue="default") == 1


async def test_requests_are_logged_at_debug_without_what_they_carried(
    server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG, "jobpipe.requests"):
        await server.enqueue(id="secret-id", payload="secret-payload")
        await server.get("/tasks/secret-id?wait=0&token=secret")
        await server.get("/tasks/secret-id")
    lines = [record for record in caplog.records if record.name == "jobpipe.requests"]
    told = [(line.method, line.route, line.status) for line in lines]  # type: ignore[attr-defined]
    assert told == [("POST", "/enqueue", 202), ("GET", "/tasks/{id}", 200), ("GET", "/tasks/{id}", 200)]
    assert all(0 < line.ms < 10_000 for line in lines)  # type: ignore[attr-defined]
    assert "secret" not in "".join(line.getMessage() for line in lines)


async def test_requests_are_not_timed_while_nobody_logs_them(
    server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        await server.enqueue({})
    assert not [record for record in caplog.records if record.name == "jobpipe.requests"]


@pytest.mark.parametrize("file", ["grafana/jobpipe.json", "prometheus/alerts.yml"])
async def test_what_is_given_for_prometheus_and_grafana_names_only_metrics_that_exist(
    server: Server, file: str
) -> None:
    await lived(server)
    await server.enqueue(id="twice")
    await server.post("/enqueue", {"id": "twice"})  # is refused, and counted
    await server.post("/queues/slow/pause", {})  # queues with rules alone are told of
    told = {sample.name for family in (await families(server)).values() for sample in family.samples}
    text = (DEPLOY / file).read_text()
    named = set(re.findall(r"\b(?:jobpipe|process)_[a-z_]+", text))
    assert len(named) >= 8
    assert named <= told
    if file.endswith(".yml"):
        rules = yaml.safe_load(text)["groups"][0]["rules"]
        assert all(rule["annotations"]["summary"] and rule["labels"]["severity"] for rule in rules)
    else:
        panels = json.loads(text)["panels"]
        assert len({panel["id"] for panel in panels}) == len(panels)


async def test_schedules_that_made_no_task_in_their_time_are_told_and_raise_the_alert(server: Server) -> None:
    for name, paused in (("ticks", False), ("rests", True)):
        body = {"every": 60, "paused": paused, "catch_up": "none", "task": {"queue": "q"}}
        assert (await server.client.put(f"/schedules/{name}", json=body)).status_code == 201

    async def states() -> dict[str, float]:
        found = await samples(server, "jobpipe_schedules")
        return {dict(labels)["state"]: number for labels, number in found.items()}

    assert await states() == {"active": 1, "resting": 1, "late": 0}
    server.clock.advance(300)  # and nobody makes what is due
    assert await states() == {"active": 1, "resting": 1, "late": 1}
    await server.queue.schedules.fire()
    assert await states() == {"active": 1, "resting": 1, "late": 0}
    assert await value(server, "jobpipe_schedules_missed_total") == 4
    (late,) = [
        rule
        for group in yaml.safe_load((DEPLOY / "prometheus" / "alerts.yml").read_text())["groups"]
        for rule in group["rules"]
        if rule["alert"] == "JobpipeSchedulesLate"
    ]
    assert 'jobpipe_schedules{state="late"}' in late["expr"]


async def test_tasks_of_schedules_that_were_refused_are_counted(server: Server) -> None:
    await server.client.patch("/queues/full", json={"capacity": 1})
    await server.enqueue({"queue": "full"})
    await server.client.put("/schedules/s", json={"every": 60, "task": {"queue": "full"}})
    server.clock.advance(61)
    await server.queue.schedules.fire()
    assert await value(server, "jobpipe_schedules_refused_total") == 1
    assert await value(server, "jobpipe_schedules_missed_total") == 0
