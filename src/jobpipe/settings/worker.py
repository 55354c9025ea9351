"""The settings of `jobpipe worker`: where its server is, and those of a server's own worker processes.

Shared settings have the names, the kinds and the sources that they have for `jobpipe serve`. The server and its key are
flags or the variables that every client knows, JOBPIPE_URL and JOBPIPE_KEY; they are not read from files.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Annotated

from cyclopts import Parameter

from jobpipe.client.address import DEFAULT_URL
from jobpipe.core.task import LEASE_S
from jobpipe.runtime.loop import AUTO
from jobpipe.settings.server import KINDS, BadSetting, parameter, whole


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True, slots=True)
class WorkerSettings:
    """Everything that `jobpipe worker` can be told. Durations are in seconds, sizes in bytes."""

    server: Annotated[
        tuple[str, ...],
        Parameter(
            env_var="JOBPIPE_URL",
            env_var_split=whole,
            negative=(),
            help="The server: http://host:port, https://..., or unix:/path. Several, that share a database, are tried "
            "in turn: repeat it, or put commas between.",
        ),
    ] = (DEFAULT_URL,)
    key: Annotated[
        str | None,
        Parameter(
            env_var="JOBPIPE_KEY", show_default=False, help="A key with the scope work; better as variable."
        ),
    ] = None
    queues: Annotated[frozenset[str] | None, parameter("queues", "Queues to work on: * or a list a,b.")] = (
        None
    )
    workers: Annotated[int, parameter("workers", "How many tasks run at a time.")] = 4
    processes: Annotated[
        int | None, parameter("processes", "Worker processes that share the workers. auto: 1.")
    ] = None
    lease: Annotated[
        float, parameter("lease", "Seconds until a task of a silent worker is given to another.")
    ] = LEASE_S
    timeout: Annotated[
        float, parameter("timeout", "Seconds of a run where neither task nor handler say.")
    ] = 3600.0
    shutdown_grace: Annotated[
        float, parameter("shutdown_grace", "Seconds that running tasks get to finish in at a stop.")
    ] = 25.0
    max_body: Annotated[int, parameter("max_body", "Largest result: bytes, or like 64KiB, 1MiB.")] = 1024**2
    max_tasks_per_process: Annotated[
        int, parameter("max_tasks_per_process", "Replace a process after so many tasks; 0 never.")
    ] = 0
    max_rss: Annotated[
        int | None,
        parameter(
            "max_rss", "Memory of one process before it is killed, like 512MiB; 0: any; auto: half of all."
        ),
    ] = None
    loop: Annotated[
        str, parameter("loop", "Event loop of handlers: auto (uvloop where it is installed) or asyncio.")
    ] = AUTO
    app_dir: Annotated[
        str, parameter("app_dir", "Where the app is imported from, like src; else from the working folder.")
    ] = ""
    log_level: Annotated[str, parameter("log_level", "DEBUG, INFO, WARNING or ERROR.")] = "INFO"
    log_format: Annotated[str, parameter("log_format", "text or json.")] = "text"
    otel: Annotated[bool, parameter("otel", "Export spans by OpenTelemetry, as its variables say.")] = False

    def __post_init__(self) -> None:
        """Refuse a value out of bounds, whoever made it: BadSetting."""
        for field in fields(self):
            kind, value = KINDS.get(field.name), getattr(self, field.name)
            if kind is not None and not kind.fits(value):
                raise BadSetting(str(kind.refusal()), field.name, str(value))
        if self.processes == 0:
            raise BadSetting("must be at least 1 here", "processes", "0")
        if self.process_count > self.workers:
            raise BadSetting(f"must be at most workers ({self.workers})", "processes", str(self.processes))

    @property
    def servers(self) -> str:
        """The servers as one text, commas between."""
        return ",".join(self.server)

    @property
    def process_count(self) -> int:
        """How many worker processes there are to be."""
        return 1 if self.processes is None else self.processes
