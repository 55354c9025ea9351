"""The SQLite engine: one file (or memory), one thread that writes, one commit for all that wait.

engine.py      SqliteStorage: the Storage contract over the two threads
writer.py      the thread that owns the writing connection: gathers calls, commits, answers
store.py       what each call does within a commit
due.py         which queued task comes next, at a cost that does not grow with what waits
counts.py      the kept counts; leases.py the running claims: both in memory, true after every commit
listing.py     pages, on a second, read-only connection
rows.py        rows to values and back; statements.py all SQL
connection.py  opening, refusing, locking, migrating; what an error of SQLite means
"""

from jobpipe.storage.sqlite.engine import SqliteStorage

__all__ = ["SqliteStorage"]
