"""All settings of a server, as one frozen value that cannot hold a wrong one.

Each field is a flag (`--queue-size`), an environment variable (`JOBPIPE_QUEUE_SIZE`; `WORKERS` and `QUEUE_SIZE` also
without the prefix), a line of `.env` and a key of `jobpipe.toml`, in that order of strength; `sources` reads
the two files. Built from text or in Python, a value out of bounds raises BadSetting.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated

from cyclopts import Parameter

from jobpipe.core.keys import MAX_RATE, BadKeys, parse_entries
from jobpipe.core.masking import masked
from jobpipe.core.task import LEASE_S, MAX_DELAY_S, MAX_RETRIES_LIMIT
from jobpipe.runtime.loop import AUTO, LOOPS
from jobpipe.settings.kinds import (
    Auto,
    Choice,
    Hidden,
    Kind,
    Names,
    Number,
    Size,
    Switch,
    Text,
    Whole,
)

__all__ = ["KINDS", "BadSetting", "Settings", "env_names", "masked"]

_STORE = re.compile(r"memory:|sqlite:///.+|postgres(?:ql)?://.+")
_HOST = r"[A-Za-z0-9_.-]{1,253}"


def _known_store(url: str) -> bool:
    return _STORE.fullmatch(url) is not None


def _address(host: str) -> bool:
    return host == "*" or re.fullmatch(r"[A-Za-z0-9_.:%-]{1,253}", host) is not None


_PAUSE = Number(0, MAX_DELAY_S)
_RETENTION = Number(0, 1e10, infinite=True)

KINDS: dict[str, Kind] = {
    "workers": Whole(1, 10_000),
    "queue_size": Whole(1, 1_000_000_000),
    "processes": Auto(Whole(0, 1000), "1 with an app, else 0"),
    "max_tasks_per_process": Whole(0, 1_000_000_000),
    "max_rss": Auto(Size(0, 1024**5), "half of the memory here"),
    "pool": Switch(),
    "queues": Names(
        "queue names of 1 to 100 characters A-Z a-z 0-9 _ . -", r"[A-Za-z0-9_.-]{1,100}", star=True
    ),
    "host": Text("an address or a host name", _address),
    "port": Whole(0, 65535),
    "allowed_hosts": Names("host names without a port", _HOST, fold=True),
    "api_keys_file": Text("the path of a file", lambda path: len(path) < 4096),
    "api_keys": Hidden("name:scope,scope:sha256-of-the-key, separated by ;", lambda _: True),
    "key_rate": Number(0, MAX_RATE, unit="requests a second", above=True, infinite=True),
    "store": Text(
        "sqlite:///file.db, sqlite:////absolute/file.db, memory: or postgresql://...", _known_store
    ),
    "max_queues": Whole(1, 1_000_000),
    "max_retries": Whole(0, MAX_RETRIES_LIMIT),
    "max_lost": Whole(2, 1_000),
    "handler_wait": _RETENTION,
    "retry_base": _PAUSE,
    "retry_jitter": _PAUSE,
    "retry_cap": _PAUSE,
    "timeout": Number(0, MAX_DELAY_S, above=True, infinite=True),
    "lease": Number(5, 3600),
    "shutdown_grace": _PAUSE,
    "retention": _RETENTION,
    "retention_failed": _RETENTION,
    "max_body": Size(),
    "max_batch_body": Size(),
    "enqueue_status": Choice((202, 200, 201)),
    "fast_lane": Switch(),
    "loop": Choice(LOOPS),
    "app_dir": Text("the path of a folder", lambda path: len(path) < 4096),
    "log_level": Choice(("DEBUG", "INFO", "WARNING", "ERROR")),
    "log_format": Choice(("text", "json")),
    "otel": Switch(),
    "simulate_min": _PAUSE,
    "simulate_max": _PAUSE,
    "simulate_failures": Number(0, 1, unit=""),
}

_EMPTY = {"allowed_hosts", "api_keys_file", "api_keys", "app_dir"}
"""Settings whose default is nothing, which no help text needs to show."""

_SHORT_NAMES = {"workers": "WORKERS", "queue_size": "QUEUE_SIZE"}


class BadSetting(Exception):
    """A setting, or a file of settings, that cannot be used: one line for the person who starts the server.

    `name` is the field (None when a file as a whole is at fault), `shown` the value as given, `origin` where it came
    from if that is known.
    """

    def __init__(
        self, problem: str, name: str | None = None, shown: str | None = None, origin: str | None = None
    ):
        super().__init__(problem)
        self.problem = problem
        self.name = name
        self.shown = shown
        self.origin = origin

    def __str__(self) -> str:
        flag = self.origin == "flag" and self.name is not None
        name = "--" + str(self.name).replace("_", "-") if flag else self.name
        value = "" if self.shown is None else f", not {_quoted(self.shown)}"
        origin = "" if self.origin is None or flag else f" ({self.origin})"
        return (f"{name}: " if name else "") + self.problem + value + origin


def env_names(name: str) -> list[str]:
    """The environment variables of a setting; the first that is set counts."""
    return [*filter(None, [_SHORT_NAMES.get(name)]), f"JOBPIPE_{name.upper()}"]


def whole(_hint: object, value: str, *, delimiter: str | None = None) -> list[str]:
    """A variable is one token: cyclopts would split lists at blanks, but the kind knows its own separator."""
    return [value]


def parameter(name: str, help: str) -> Parameter:
    """How cyclopts reads the setting `name`, whatever command it belongs to."""
    kind = KINDS[name]
    return Parameter(
        env_var=env_names(name),
        env_var_split=whole,
        converter=kind.convert,
        negative=None if isinstance(kind, Switch) else (),
        n_tokens=None if isinstance(kind, Switch) else 1,
        show_default=False if name in _EMPTY else kind.show,
        help=help,
    )


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True, slots=True)
class Settings:
    """Everything that a server can be told at its start. Durations are in seconds, sizes in bytes."""

    workers: Annotated[int, parameter("workers", "How many tasks run at a time.")] = 4
    queue_size: Annotated[int, parameter("queue_size", "Waiting tasks a queue holds before it refuses.")] = 64
    processes: Annotated[
        int | None,
        parameter(
            "processes",
            "Worker processes that share the workers; 0 runs handlers in the server. auto: 1 with an app.",
        ),
    ] = None
    max_tasks_per_process: Annotated[
        int, parameter("max_tasks_per_process", "Replace a worker process after so many tasks; 0 never.")
    ] = 0
    max_rss: Annotated[
        int | None,
        parameter(
            "max_rss",
            "Memory of one worker process before it is killed: bytes or like 512MiB; 0: any; auto: half of all.",
        ),
    ] = None
    pool: Annotated[bool, parameter("pool", "Work on tasks here, or only serve them to other workers.")] = (
        True
    )
    queues: Annotated[
        frozenset[str] | None, parameter("queues", "Queues that the pool works on: * or a list a,b.")
    ] = None
    host: Annotated[str, parameter("host", "Address to listen on; * or :: is every one, IPv4 and IPv6.")] = (
        "127.0.0.1"
    )
    port: Annotated[int, parameter("port", "Port to listen on; 0 takes a free one.")] = 8080
    allowed_hosts: Annotated[
        frozenset[str],
        parameter("allowed_hosts", "Host names to answer to, as a,b; addresses and dotless names pass."),
    ] = frozenset()
    api_keys_file: Annotated[
        str,
        parameter(
            "api_keys_file", "File of API keys, read again when it changes; jobpipe keys new makes them."
        ),
    ] = ""
    api_keys: Annotated[
        str, parameter("api_keys", "API keys, as name:scope,scope:sha256 with ; between; better as variable.")
    ] = ""
    key_rate: Annotated[
        float, parameter("key_rate", "Requests a second of a key that does not say, or inf.")
    ] = float("inf")
    store: Annotated[
        str, parameter("store", "Where tasks live: sqlite:///file.db, memory: or postgresql://...")
    ] = "sqlite:///jobpipe.db"
    max_queues: Annotated[int, parameter("max_queues", "Queue names that hold tasks at a time.")] = 1000
    max_retries: Annotated[int, parameter("max_retries", "Retries of a task that does not say.")] = 3
    max_lost: Annotated[int, parameter("max_lost", "A task fails when it lost its worker this often.")] = 3
    handler_wait: Annotated[
        float, parameter("handler_wait", "Seconds a task waits for a worker that has its handler, or inf.")
    ] = 3600.0
    retry_base: Annotated[
        float, parameter("retry_base", "Seconds before the first retry; then they double.")
    ] = 0.2
    retry_jitter: Annotated[
        float, parameter("retry_jitter", "Random seconds added to each delay, at most.")
    ] = 0.1
    retry_cap: Annotated[
        float, parameter("retry_cap", "The longest delay in seconds, without the jitter.")
    ] = 300.0
    timeout: Annotated[float, parameter("timeout", "Seconds that one run may take, or inf.")] = 3600.0
    lease: Annotated[float, parameter("lease", "Seconds of a lease, where a worker does not say.")] = LEASE_S
    shutdown_grace: Annotated[
        float, parameter("shutdown_grace", "Seconds that running tasks get to finish in at a stop.")
    ] = 25.0
    retention: Annotated[
        float, parameter("retention", "Seconds to keep done and cancelled tasks, or inf.")
    ] = 86_400.0
    retention_failed: Annotated[
        float, parameter("retention_failed", "Seconds to keep failed tasks, or inf.")
    ] = 604_800.0
    max_body: Annotated[int, parameter("max_body", "Largest task: bytes, or like 64KiB, 1MiB.")] = 1024**2
    max_batch_body: Annotated[int, parameter("max_batch_body", "Largest batch, likewise.")] = 16 * 1024**2
    enqueue_status: Annotated[
        int, parameter("enqueue_status", "Status of an accepted task: 202, 200, 201.")
    ] = 202
    fast_lane: Annotated[
        bool, parameter("fast_lane", "Answer the hot routes by the short way; off only to compare.")
    ] = True
    loop: Annotated[
        str, parameter("loop", "Event loop of handlers: auto (uvloop where it is installed) or asyncio.")
    ] = AUTO
    app_dir: Annotated[
        str, parameter("app_dir", "Where the app is imported from, like src; else from the working folder.")
    ] = ""
    log_level: Annotated[str, parameter("log_level", "DEBUG, INFO, WARNING or ERROR.")] = "INFO"
    log_format: Annotated[str, parameter("log_format", "text or json.")] = "text"
    otel: Annotated[bool, parameter("otel", "Export spans by OpenTelemetry, as its variables say.")] = False
    simulate_min: Annotated[
        float, parameter("simulate_min", "Shortest run of the handler simulate, in seconds.")
    ] = 0.1
    simulate_max: Annotated[
        float, parameter("simulate_max", "Longest run of the handler simulate, in seconds.")
    ] = 0.5
    simulate_failures: Annotated[
        float, parameter("simulate_failures", "How likely simulate fails, 0 to 1.")
    ] = 0.2

    def __post_init__(self) -> None:
        """Refuse a value out of bounds, whoever made it: BadSetting."""
        for name, kind in KINDS.items():
            value = getattr(self, name)
            if not kind.fits(value):
                raise BadSetting(str(kind.refusal()), name, _plain(kind, value))
        if self.processes is not None and self.processes > self.workers:
            raise BadSetting(f"must be at most workers ({self.workers})", "processes", str(self.processes))
        try:
            parse_entries(self.api_keys)
        except BadKeys as error:
            raise BadSetting(str(error), "api_keys") from None
        if self.simulate_min > self.simulate_max:
            low = KINDS["simulate_min"].show(self.simulate_min)
            raise BadSetting(f"must be at least simulate_min ({low})", "simulate_max", str(self.simulate_max))


def _plain(kind: Kind, value: object) -> str:
    return kind.show(value) if isinstance(kind, Text) and isinstance(value, str) else str(value)


def _quoted(text: str) -> str:
    """Any text on one line and of bearable length, so that an error stays one line."""
    return repr(text if len(text) <= 100 else text[:97] + "...")
