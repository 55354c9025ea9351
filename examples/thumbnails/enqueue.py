"""Enqueues a task for every photograph of a folder, with nothing but the standard library.

    python -m examples.thumbnails.enqueue photos thumbnails --wait

A task's id comes from its file's name, so running this again does no harm: the server answers 409 for what it has
already. It bears a server that is full, that stops or that is killed: it waits and tries again.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterable
from http.client import HTTPException
from pathlib import Path
from typing import Any

URL = "http://127.0.0.1:8080"
PATIENCE_S = 120.0
"""How long a server may be away."""


def enqueue_all(url: str, photos: Iterable[Path], folder: Path) -> list[str]:
    """Have a thumbnail made of each photograph in `folder`; the ids of the tasks."""
    return [_enqueue(url, _thumbnail(photo, folder)) for photo in photos]


def wait_all(url: str, ids: Iterable[str]) -> list[dict[str, Any]]:
    """Wait until every task has come to its end; those that did not succeed."""
    ended = [_finished(url, id) for id in ids]
    return [task for task in ended if task["status"] != "done"]


def make_sheet(url: str, folder: Path, sheet: Path) -> dict[str, Any]:
    """Have the sheet of all thumbnails made, and wait for it; the finished task."""
    payload = {"folder": str(folder.resolve()), "sheet": str(sheet.resolve())}
    return _finished(url, _enqueue(url, {"handler": "contact_sheet", "payload": payload}))


def _thumbnail(photo: Path, folder: Path) -> dict[str, Any]:
    # Whole paths, because the server's working directory is not ours.
    payload = {"photo": str(photo.resolve()), "folder": str(folder.resolve())}
    return {"id": f"thumbnail-{photo.stem}", "handler": "thumbnail", "payload": payload}


def _enqueue(url: str, task: dict[str, Any]) -> str:
    status, answer = _ask(f"{url}/enqueue", task)
    if status not in (202, 409):
        raise SystemExit(f"{task.get('id', task['handler'])}: {answer}")
    id: str = answer["id"] if status == 202 else task["id"]
    return id


def _finished(url: str, id: str) -> dict[str, Any]:
    while True:
        status, task = _ask(f"{url}/tasks/{id}?wait=30")
        if status != 200:
            raise SystemExit(f"{id}: {task}")
        if task["finished_at"] is not None:
            return task


def _ask(url: str, body: dict[str, Any] | None = None) -> tuple[int, dict[str, Any]]:
    """Status and answer. A server that is full or away is asked again, as soon as it said or after half a second."""
    deadline = time.monotonic() + PATIENCE_S
    data = None if body is None else json.dumps(body).encode()
    while True:
        try:
            with urllib.request.urlopen(urllib.request.Request(url, data), timeout=60) as answer:
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as error:
            with error:
                if error.code != 503 or time.monotonic() > deadline:
                    return error.code, json.load(error)
                pause = float(error.headers.get("Retry-After", "1"))
        except (OSError, HTTPException):
            if time.monotonic() > deadline:
                raise
            pause = 0.5
        time.sleep(pause)


def main() -> int:
    """Enqueue, and with --wait see it through and have the sheet made."""
    parser = argparse.ArgumentParser(description="Have thumbnails made of a folder of photographs.")
    parser.add_argument("photos", type=Path)
    parser.add_argument("folder", type=Path, help="where the thumbnails go")
    parser.add_argument("--url", default=URL, help=f"the server ({URL})")
    parser.add_argument("--wait", action="store_true", help="until all are made; then make the sheet of them")
    arguments = parser.parse_args()
    ids = enqueue_all(arguments.url, sorted(arguments.photos.glob("*.jpg")), arguments.folder)
    print(f"{len(ids)} tasks are on disk")
    if not arguments.wait:
        return 0
    failures = wait_all(arguments.url, ids)
    if not failures:
        sheet = make_sheet(arguments.url, arguments.folder, arguments.folder.with_name("contact-sheet.jpg"))
        failures = [sheet] if sheet["status"] != "done" else []
    for task in failures:
        print(f"{task['id']}: {task['status']}: {task['last_error']}", file=sys.stderr)
    if failures:
        return 1
    print(f"{len(ids)} thumbnails, and all of them in {sheet['result']['path']}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
