"""The PostgreSQL engine: many servers on one database, each with a few connections on which calls gather.

- engine.py: PostgresStorage, the Storage contract over the lanes
- lane.py: one connection that serves gathered calls, and comes back when it was lost
- link.py: the connection itself; what an error of the driver means. address.py: what the URL says
- intake.py (accepting), runs.py (claims and settles), leases.py, steering.py (cancel, retry, delete), pruning.py and
  partitions.py (forgetting), listing.py (pages)
- shared.py: what they share: counts.py (the kept counts over all servers), levels.py (where due tasks may be),
  dbtime.py (the database's time)
- company.py: the other servers: signs of life, wake-ups
- rows.py: values to rows and back; statements.py: all SQL; migrations.py: the schema, or refusing it
"""

from jobpipe.storage.postgres.engine import PostgresStorage

__all__ = ["PostgresStorage"]
