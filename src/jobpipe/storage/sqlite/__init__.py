"""The SQLite engine: one file (or memory), one thread that writes, one commit for all that wait.

- engine.py: SqliteStorage, the Storage contract over the two threads
- writer.py: the thread that owns the writing connection; it gathers calls (storage/calls.py), commits, answers
- store.py: which part answers which call, in what order within a commit; the parts are intake.py (accepting),
  runs.py (claims and settles) and steering.py (cancel, retry, delete, prune)
- state.py: the connection and its mirror in memory: counts.py (the kept counts), leases.py (the running claims),
  due.py (which task comes next, at a cost that does not grow with what waits) and line.py (what a queue begins with),
  unwritten.py (claims that are answered and not in the file yet), claimlog.py (their log, should the server be killed)
- history.py: unsuccessful attempts, and the summaries of minutes
- listing.py: pages, on a second, read-only connection
- columns.py: what a row holds, by name; rows.py: values to rows and back; statements.py: all SQL
- connection.py, lock.py: opening, refusing, locking, migrating; what an error of SQLite means
"""

from jobpipe.storage.sqlite.engine import SqliteStorage

__all__ = ["SqliteStorage"]
