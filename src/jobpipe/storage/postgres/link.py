"""One connection, and what an error of the driver means for Jobpipe: nothing of asyncpg leaves this file.

Three kinds of failure: the database refused the statement (nothing happened), it refused all statements for now, or the
connection is gone and nobody knows what became of the last one (`Gone`).
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import asyncpg
from asyncpg.connect_utils import SessionAttribute

from jobpipe.core.errors import StorageError, StorageFull
from jobpipe.storage.postgres import session
from jobpipe.storage.postgres.address import Address, Host, Keepalive

Row = asyncpg.Record


class Gone(StorageError):
    """The connection ended while a statement was under way: whether it was carried out is not known."""


class Again(StorageError):
    """The statement was rolled back for the sake of another one, and may be sent again."""


class Unserved(StorageError):
    """The database carries out no statement of this kind: a privilege, a table or the schema is missing, or it is
    read-only."""


class Refused(Exception):
    """The statement cannot be carried out as it is: a value that the database does not take. Nothing happened."""


class Link:
    """A connection. `pooled` ones keep no state: each statement brings its settings along in its transaction."""

    def __init__(
        self,
        connection: asyncpg.Connection[Row],
        address: Address,
        *,
        settings: dict[str, str] = session.OURS,
    ) -> None:
        self._connection = connection
        self._address = address
        self._call_s = session.MIGRATE_S if settings is session.BARE else session.CALL_S
        version = connection.get_server_version().major
        self._begin = session.prologue(settings, version) if address.pooled else session.BEGIN
        self._named: dict[str, str] = {}
        self._transaction = False
        self.pid = 0
        """The backend's process, 0 behind a pooler that gives it to others."""
        self.backend: tuple[int, Any] | None = None
        """The backend for certain, by its process and its start; None where a pooler may give it to somebody else."""
        self.on_silence: Callable[[], None] = _nothing
        """Called when the link ended because no answer came."""

    async def settle_in(self, settings: dict[str, str]) -> None:
        """Set these for the session, and learn whose it is. Not as parameters of the start: poolers refuse those."""
        await self.script(session.FIRST)
        settings = settings | session.since(self._connection.get_server_version().major)
        names = list(settings)
        row = await self.row(_SETTLE_IN, names, [settings[name] for name in names])
        self.pid = row["pid"]
        # A pooler has a number of its own for each of its clients.
        if self.pid == self._connection.get_server_pid():
            self.backend = (self.pid, row["began"])

    def keep_alive(self, how: Keepalive) -> None:
        """Let the system find out that the other side is gone, while nothing is sent."""
        transport = getattr(self._connection, "_transport", None)
        _watch(transport.get_extra_info("socket") if transport is not None else None, how)

    @property
    def alive(self) -> bool:
        return not self._connection.is_closed()

    async def rows(self, statement: str, *arguments: Any, timeout: float | None = None) -> list[Row]:
        """Run a statement; its rows. Raises Gone, Refused and StorageError."""
        if self._address.pooled and not self._transaction:
            async with self.transaction():
                return await self.rows(statement, *arguments, timeout=timeout)
        with self._translated():
            text = self.named(statement)
            return await self._connection.fetch(text, *arguments, timeout=timeout or self._call_s)

    async def row(self, statement: str, *arguments: Any) -> Row:
        """The one row of a statement that always has one."""
        return (await self.rows(statement, *arguments))[0]

    async def value(self, statement: str, *arguments: Any) -> Any:
        """The one value of a statement that always has one."""
        return (await self.row(statement, *arguments))[0]

    async def script(self, text: str) -> None:
        """Run SQL without arguments, several statements at once."""
        with self._translated():
            await self._connection.execute(self.named(text), timeout=self._call_s)

    @contextlib.asynccontextmanager
    async def transaction(self) -> AsyncIterator[None]:
        """All statements within are one commit. Gone out of the commit itself leaves its outcome unknown."""
        await self.script(self._begin)
        self._transaction = True
        try:
            yield
        except BaseException:
            self._transaction = False
            if self.alive:
                with contextlib.suppress(StorageError, Refused):
                    await self.script("ROLLBACK")
            raise
        self._transaction = False
        await self.script("COMMIT")

    async def listen(self, channel: str, tell: Callable[[int, str], None]) -> None:
        """Have `tell(pid, payload)` called for each NOTIFY of `channel`, as long as the link lives."""

        def told(_: object, pid: int, __: str, payload: object) -> None:
            tell(pid, str(payload))

        with self._translated():
            await self._connection.add_listener(channel, told)

    def on_end(self, tell: Callable[[], None]) -> None:
        """Have `tell` called when the link ends."""
        self._connection.add_termination_listener(lambda _: tell())

    def cut(self) -> None:
        """End it at once, whatever is under way."""
        self._connection.terminate()

    async def close(self) -> None:
        """End it in order."""
        try:
            await self._connection.close(timeout=2.0)
        except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError):
            self._connection.terminate()

    def named(self, statement: str) -> str:
        """The statement over the schema of this store."""
        if self._address.schema == "jobpipe":
            return statement
        if statement not in self._named:
            self._named[statement] = in_schema(statement, self._address.schema)
        return self._named[statement]

    @contextlib.contextmanager
    def _translated(self) -> Any:
        try:
            yield
        except asyncio.CancelledError:
            self.cut()  # half a call is none: the next one must not meet its answer
            raise
        except Exception as error:
            raise self._meaning(error) from error

    def _meaning(self, error: Exception) -> Exception:
        if _ends_link(error) or not self.alive:
            self.cut()
            if isinstance(error, TimeoutError):
                self.on_silence()
            return Gone(f"the database is away: {_line(error)}")
        if isinstance(error, asyncpg.InsufficientResourcesError):
            return StorageFull(f"the database has no room: {_line(error)}")
        if isinstance(error, _AGAIN):
            return Again(f"the database does not take this now: {_line(error)}")
        if isinstance(error, _UNSERVED):
            if isinstance(error, _NO_SCHEMA):
                self.cut()  # whoever makes it anew knows nothing of what this link was told
            return Unserved(f"the database does not serve Jobpipe as it is: {_line(error)}")
        if isinstance(error, _NOT_NOW):
            return StorageError(f"the database does not take this now: {_line(error)}")
        if isinstance(error, StorageError | Refused):
            return error
        return Refused(_line(error))


_AGAIN = (
    asyncpg.DeadlockDetectedError,
    asyncpg.SerializationError,
    asyncpg.InvalidCachedStatementError,
)
_NO_SCHEMA = (asyncpg.UndefinedTableError, asyncpg.InvalidSchemaNameError)
_UNSERVED = (
    asyncpg.SyntaxOrAccessError,
    asyncpg.InvalidSchemaNameError,
    asyncpg.ObjectNotInPrerequisiteStateError,
    asyncpg.ReadOnlySQLTransactionError,
)
_NOT_NOW = (
    asyncpg.QueryCanceledError,
    asyncpg.LockNotAvailableError,
    asyncpg.OperatorInterventionError,
    asyncpg.PostgresSystemError,
    asyncpg.InternalServerError,
    asyncpg.InvalidTransactionStateError,
)


def _ends_link(error: Exception) -> bool:
    # A timeout too: over a dead network the connection would stay "open", and so would every call after it.
    gone = (OSError, TimeoutError, asyncpg.PostgresConnectionError, asyncpg.AdminShutdownError,
            asyncpg.CrashShutdownError, asyncpg.CannotConnectNowError, asyncpg.ReadOnlySQLTransactionError,
            asyncpg.IdleInTransactionSessionTimeoutError)  # fmt: skip
    if isinstance(error, asyncpg.InterfaceError):
        return not isinstance(error, asyncpg.DataError | ValueError)
    return isinstance(error, gone)


async def dial(
    address: Address, host: Host, *, bare: bool = False, any_host: bool = False, at: str | None = None
) -> Link:
    """Open a link to a host that takes writes, or to `any_host`; `at` one of its addresses. Raises StorageError.

    A `bare` one has the server's settings, not ours.
    """
    # The name stays beside its address: passwords are kept by it.
    names = _SOCKETS if host.name is None else [host.name] if at is None else [at, host.name]
    try:
        async with asyncio.timeout(address.connect_s):
            connection = await asyncpg.connect(
                address.tls,
                host=names,
                port=host.port,
                user=address.login.get("user"),
                password=address.login.get("password"),
                passfile=address.login.get("passfile"),
                database=address.login["database"],
                timeout=address.connect_s,
                command_timeout=session.CALL_S,
                statement_cache_size=0 if address.pooled else 200,
                max_cacheable_statement_size=0,
                server_settings=address.startup,
                target_session_attrs=SessionAttribute.any if any_host else SessionAttribute.read_write,
            )
            settings = session.BARE if bare else session.OURS
            link = Link(connection, address, settings=settings)
            link.keep_alive(address.keepalive)
            try:
                if not address.pooled:
                    await link.settle_in(settings)
            except BaseException:
                link.cut()
                raise
            return link
    except asyncpg.TargetServerAttributeNotMatched as error:
        raise StorageError("is a standby or read-only: it takes no tasks") from error
    except _CANNOT_CONNECT as error:
        raise StorageError(_line(error)) from error


async def addresses(host: Host) -> list[str]:
    """What the name of a host stands for, when that is more than one address."""
    if host.name is None or host.name.startswith(("/", "@")):
        return []
    try:
        found = await asyncio.get_running_loop().getaddrinfo(host.name, host.port, type=socket.SOCK_STREAM)
    except OSError:
        return []
    distinct = list(dict.fromkeys(str(entry[4][0]) for entry in found))
    return distinct if len(distinct) > 1 else []


_SOCKETS = ["/run/postgresql", "/var/run/postgresql", "/tmp", "localhost"]  # noqa: S108 - where libpq looks
_CANNOT_CONNECT = (
    OSError, TimeoutError, ssl.SSLError, asyncpg.PostgresError, asyncpg.InterfaceError, ValueError, Refused,
)  # fmt: skip
_SETTLE_IN = """
SELECT pg_backend_pid() AS pid, (SELECT backend_start FROM pg_stat_get_activity(pg_backend_pid())) AS began,
       (SELECT count(set_config(name, value, false)) FROM unnest($1::text[], $2::text[]) AS s(name, value)) AS n
"""
_KEEPALIVE = (("idle_s", "TCP_KEEPIDLE"), ("interval_s", "TCP_KEEPINTVL"), ("count", "TCP_KEEPCNT"),
              ("give_up_ms", "TCP_USER_TIMEOUT"))  # fmt: skip


def _watch(line: Any, how: Keepalive) -> None:
    if line is None or line.family not in (socket.AF_INET, socket.AF_INET6):
        return
    line.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, int(how.on))
    for name, option in _KEEPALIVE:
        if getattr(how, name) and hasattr(socket, option):
            line.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), getattr(how, name))


def _nothing() -> None:
    """Nobody asked to be told."""


def in_schema(text: str, schema: str) -> str:
    """SQL of the schema `jobpipe` for another one."""
    return text.replace("jobpipe.", f"{schema}.")


def _line(error: BaseException) -> str:
    words = " ".join(str(error).split())
    return f"{type(error).__name__}: {words}" if words else type(error).__name__


def arrays(rows: Sequence[Sequence[Any]], width: int) -> list[list[Any]]:
    """Rows as columns, for `unnest`."""
    return [list(column) for column in zip(*rows, strict=True)] if rows else [[] for _ in range(width)]
