"""Tasks with some of their fields: for lists, which show neither payloads nor results."""

from __future__ import annotations

from collections.abc import Callable, Collection

import msgspec
from msgspec import Raw
from msgspec.structs import replace

from jobpipe.core.task import Task
from jobpipe.wire.answers import TaskView, encode_task

TASK_FIELDS = frozenset(TaskView.__struct_fields__)
BYTES = frozenset({"payload", "result"})
"""The fields that may be large."""

_parts = msgspec.json.Decoder(dict[str, Raw])


def task_encoder(fields: Collection[str]) -> Callable[[Task], bytes]:
    """Writes a task as `encode_task` does, with these of its fields alone, in the same order.

    A task that was read without its payload is written without it too.
    """
    names = {name: b'"%b":' % name.encode() for name in fields}

    def encode(task: Task) -> bytes:
        whole = _parts.decode(encode_task(task if task.payload else replace(task, payload=b"null")))
        return b"{%b}" % b",".join(
            names[name] + bytes(value) for name, value in whole.items() if name in names
        )

    return encode
