"""One id is one task: the same id posted over many connections at the same moment is accepted once."""

from __future__ import annotations

import contextlib
import json
from collections import Counter
from collections.abc import Sequence

from prove.proof import Figure, Trial, none
from prove.raw import Raw
from prove.servers import serving

CONNECTIONS = 50


def same_id(trial: Trial) -> Sequence[Figure]:
    """Each connection sends the id with a payload of its own, all before any answer is read; who won is kept."""
    ids = trial.sized(50, 1_000, 1_000)
    source = trial.source()
    accepted: Counter[str] = Counter()
    odd = not_the_winners = 0
    with (
        serving(trial.folder, "--no-pool", "--queue-size", "1000000") as server,
        contextlib.ExitStack() as stack,
    ):
        connections = [stack.enter_context(Raw(server.port)) for _ in range(CONNECTIONS)]
        winners: dict[str, int] = {}
        for number in range(ids):
            id_ = f"same-{number}"
            for n, connection in enumerate(source.sample(connections, CONNECTIONS)):
                connection.send(_request(id_, n, twice=source.random() < 0.2))
            for connection in connections:
                for status, payload in _answers(connection):
                    odd += status not in (202, 409)
                    if status == 202:
                        accepted[id_] += 1
                        winners[id_] = payload
        with server.connected() as client:
            rows = list(client.tasks())
            not_the_winners = sum(task["payload"] != winners.get(task["id"]) for task in rows)
    by_id = Counter(task["id"] for task in rows)
    return [
        Figure("ids", ids),
        Figure("posts of each at a time", CONNECTIONS),
        none("ids not accepted exactly once", sum(accepted[f"same-{n}"] != 1 for n in range(ids))),
        none("ids not stored exactly once", sum(by_id[f"same-{n}"] != 1 for n in range(ids))),
        none("stored payloads that are not the accepted one's", not_the_winners),
        none("answers that are neither 202 nor 409", odd),
    ]


def _request(id_: str, payload: int, *, twice: bool) -> bytes:
    """One post; `twice` makes it a batch that holds the id twice."""
    task = {"id": id_, "payload": payload, "handler": "work"}
    body = json.dumps([task, task] if twice else task).encode()
    return b"POST /enqueue HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)


def _answers(connection: Raw) -> list[tuple[int, int]]:
    """Status, and the payload of what was accepted, of each task of one post."""
    answer = connection.answer()
    body = json.loads(answer.body)
    if not isinstance(body, list):
        return [(answer.status, body.get("payload", -1))]
    return [(item["status"], item.get("task", {}).get("payload", -1)) for item in body]
