"""One unique key is one living task, and one Idempotency-Key one answer: over two servers on one PostgreSQL, whose
answers are lost and which are killed meanwhile."""

from __future__ import annotations

import contextlib
import json
import random
import threading
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from prove.cluster import running
from prove.fleet import Fleet, fleet
from prove.proof import Figure, Trial, none
from prove.raw import Closed, Raw
from prove.servers import until

CONNECTIONS = 50
LOST = 0.2
"""This share of the posts does not wait for its answer, and is sent again."""
KILLS = 0.2
"""In this share of the rounds a server is killed."""
TRIES_S = 60.0
STORED = """
SELECT uniqueness, digest IS NOT NULL AS named, count(*) FROM (
    SELECT uniqueness, digest, id FROM jobpipe.tasks
    UNION ALL SELECT uniqueness, digest, id FROM jobpipe.finished) every
 GROUP BY 1, 2
"""


class Asked:
    """What one sender was told, in the end."""

    def __init__(self, round_: int, source: random.Random) -> None:
        self.named = round_ % 2 == 1
        """All of them have the round's Idempotency-Key, or all its unique key."""
        self.lost = source.random() < LOST
        key = {"unique": {"key": f"k{round_}", "until": "end"}}
        body = json.dumps({"handler": "never", "delay": 3600} | ({} if self.named else key)).encode()
        more = f"Idempotency-Key: r{round_}\r\n" if self.named else ""
        self.request = (
            f"POST /enqueue HTTP/1.1\r\nHost: 127.0.0.1\r\n{more}Content-Length: {len(body)}\r\n\r\n".encode()
            + body
        )
        self.status, self.id = 0, ""

    def send(self, port: int) -> bool:
        """Post it once; whether it was answered."""
        with contextlib.suppress(OSError, Closed), Raw(port, 20.0) as connection:
            connection.send(self.request)
            if self.lost:
                self.lost = False
                return False
            answer = connection.answer()
            if answer.status in (200, 202):
                self.status, self.id = answer.status, json.loads(answer.body)["id"]
                return True
            if answer.status < 500:
                raise AssertionError(f"{answer.status}: {answer.body!r}")
        return False


def one_key(trial: Trial) -> Sequence[Figure]:
    """In each round 50 connections post at once to both servers, until each was answered."""
    rounds = trial.sized(15, 150, 1_000)
    source, killed = trial.source(), 0
    asked: list[list[Asked]] = []
    with (
        running() as cluster,
        fleet(trial.folder, cluster.url(), servers=2, workers=0) as whole,
        ThreadPoolExecutor(CONNECTIONS) as pool,
    ):
        for number in range(rounds):
            posts = [Asked(number, source) for _ in range(CONNECTIONS)]
            sending = [pool.submit(_until_answered, post, whole, n) for n, post in enumerate(posts)]
            if source.random() < KILLS:
                threading.Event().wait(source.uniform(0.0, 0.03))
                victim = source.randrange(2)
                whole.servers[victim].kill()
                whole.restart(victim)
                killed += 1
            for one in sending:
                one.result()
            asked.append(posts)
        stored = cluster.run(STORED)
        fallen = whole.fallen()
    return [
        Figure("keys, half of them unique keys, half Idempotency-Keys", rounds),
        Figure("posts of each at a time, over two servers", CONNECTIONS),
        Figure("servers killed", killed, at_least=1),
        *_figures(asked, stored, rounds),
        none("servers crashed", fallen),
    ]


def _figures(asked: Sequence[Sequence[Asked]], stored: Sequence[Any], rounds: int) -> list[Figure]:
    unique = Counter({row[0]: row[2] for row in stored if row[0] is not None})
    named = sum(row[2] for row in stored if row[1])
    of_names = rounds // 2
    told = [{post.id for post in posts} for posts in asked]
    firsts = [sum(post.status == 202 for post in posts) for posts in asked if not posts[0].named]
    return [
        none("second tasks of a unique key", sum(n - 1 for n in unique.values())),
        none("second tasks of an Idempotency-Key", named - of_names),
        none("keys that were lost", rounds - len(unique) - named),
        none("rounds in which two tasks were told", sum(len(ids) != 1 for ids in told)),
        none("unique keys accepted twice", sum(n > 1 for n in firsts)),
    ]


def _until_answered(post: Asked, whole: Fleet, number: int) -> None:
    places = iter(range(number, number + 1_000_000))
    until(
        "a post is answered", lambda: post.send(whole.servers[next(places) % 2].port), TRIES_S, pause_s=0.02
    )
