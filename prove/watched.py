"""Every start and end of a run, and every change of a rule, as PostgreSQL committed them: what ran at each moment.

Triggers of ours note them in the transactions that make them, so that what was rolled back is not there, and commits
are read in their own order (`track_commit_timestamp`): a count at a commit is what anybody saw then, and no sample.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from itertools import groupby
from typing import Any

from msgspec import Struct

from prove.cluster import Cluster

NOTES = """
CREATE TABLE public.moves (
    n bigint GENERATED ALWAYS AS IDENTITY, id text, queue text, key text, step int, at bigint, said text
);
CREATE FUNCTION public.note_run() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE was boolean := TG_OP <> 'INSERT' AND OLD.status = 1;
        runs boolean := TG_OP <> 'DELETE' AND NEW.status = 1;
BEGIN
    IF was AND (NOT runs OR OLD.attempts < NEW.attempts) THEN
        INSERT INTO public.moves (id, queue, key, step) VALUES (OLD.id, OLD.queue, OLD.key, -1);
    END IF;
    IF runs AND (NOT was OR OLD.attempts < NEW.attempts) THEN
        INSERT INTO public.moves (id, queue, key, step, at) VALUES (NEW.id, NEW.queue, NEW.key, 1, NEW.started_at);
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER note_run AFTER INSERT OR UPDATE OR DELETE ON jobpipe.tasks
    FOR EACH ROW EXECUTE FUNCTION public.note_run();
CREATE FUNCTION public.note_rule() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'DELETE' THEN
        INSERT INTO public.moves (queue, key, step, said) VALUES (OLD.queue, OLD.key, 0, '{}');
    ELSE
        INSERT INTO public.moves (queue, key, step, said) VALUES (NEW.queue, NEW.key, 0, NEW.said);
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER note_rule AFTER INSERT OR UPDATE OR DELETE ON jobpipe.rules
    FOR EACH ROW EXECUTE FUNCTION public.note_rule();
"""
READ = """
SELECT pg_xact_commit_timestamp(xmin) AS committed, xmin::text AS transaction, id, queue, coalesce(key, '') AS key,
       step, at, said
  FROM public.moves ORDER BY pg_xact_commit_timestamp(xmin), xmin::text, n
"""


class Move(Struct, frozen=True):
    """A run that began (`step` 1, by the store's clock `at`) or ended (-1), or what is said now of a key (0)."""

    commit: tuple[Any, str]
    id: str | None
    queue: str
    key: str
    step: int
    at: int | None
    said: str | None


def watch(cluster: Cluster) -> None:
    """Note from now on; the cluster keeps the times of commits."""
    cluster.run(NOTES)


def moves(cluster: Cluster) -> list[Move]:
    """All that was committed, in the order of the commits."""
    return [
        Move((row["committed"], row["transaction"]), *(row[name] for name in Move.__struct_fields__[1:]))
        for row in cluster.run(READ, timeout=300)
    ]


class Judged:
    """What the commits say: how often more ran than was allowed when a run began."""

    def __init__(self) -> None:
        self.running: Counter[tuple[str, str | None]] = Counter()
        """By queue (None) and key."""
        self.said: dict[tuple[str, str], dict[str, Any]] = defaultdict(dict)
        self.starts = self.too_many = self.paused = self.full = self.changes = 0

    def judge(self, noted: Iterable[Move]) -> Judged:
        """Go through all commits."""
        for _, group in groupby(noted, key=lambda move: move.commit):
            self._commit(list(group))
        return self

    def _commit(self, noted: Sequence[Move]) -> None:
        for move in noted:
            if move.said is not None:
                self.said[move.queue, move.key] = json.loads(move.said)
                self.changes += 1
            else:
                self.running[move.queue, None] += move.step
                self.running[move.queue, move.key] += move.step
        for move in noted:
            if move.step == 1:
                self._start(move)

    def _start(self, move: Move) -> None:
        self.starts += 1
        queue, own = self.said[move.queue, ""], self.said[move.queue, move.key] if move.key else {}
        most = queue.get("concurrency")
        most_of_key = own.get("concurrency", queue.get("key_concurrency")) if move.key else None
        self.paused += queue.get("paused") is True or own.get("paused") is True
        self.too_many += _over(self.running[move.queue, None], most)
        self.too_many += _over(self.running[move.queue, move.key], most_of_key)
        self.full += most is not None and self.running[move.queue, None] == most


def _over(running: int, most: Any) -> bool:
    return isinstance(most, int) and running > most


def crowded_windows(at_ms: Sequence[int], limit: int, period_ms: int, burst: int) -> int:
    """Starts that make a half-open window of one period hold more than `limit + burst - 1`."""
    ordered, most = sorted(at_ms), limit + burst - 1
    return sum(late - early < period_ms for early, late in zip(ordered, ordered[most:], strict=False))


def longest_gap(keys: Sequence[str]) -> int:
    """The most starts of others between two of a key, or before its first."""
    last: dict[str, int] = {}
    longest = 0
    for n, key in enumerate(keys):
        longest = max(longest, n - last.get(key, -1) - 1)
        last[key] = n
    return longest
