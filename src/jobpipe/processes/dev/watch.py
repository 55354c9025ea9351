"""What changed on disk: Python files and settings, found by looking at their times and sizes anew.

Looking needs no package and works on every system and file share. Whoever looks at a very large tree should look less
often: `seconds` tells how long the last look took.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator, Sequence
from fnmatch import fnmatch
from importlib.machinery import ModuleSpec, PathFinder
from importlib.util import find_spec
from pathlib import Path

SETTINGS = frozenset({".env", "jobpipe.toml"})
_SKIPPED = frozenset({"__pycache__", "node_modules"})

_Stamp = tuple[int, int, int]


class Watcher:
    """Remembers the Python files and settings under `roots`, which are folders or single files.

    `exclude` are patterns of what is not looked at: of names, or of paths below a root (`generated`, `api/*_pb2.py`).
    """

    def __init__(self, roots: Sequence[Path], exclude: Sequence[str] = ()) -> None:
        self._roots = roots
        self._exclude = exclude
        self.seconds = 0.0
        self._seen = self._look()

    def changed(self) -> list[Path]:
        """The files that came, went or were written since the last look, sorted."""
        before, now = self._seen, self._look()
        self._seen = now
        return sorted(Path(path) for path in before.keys() | now.keys() if before.get(path) != now.get(path))

    def _look(self) -> dict[str, _Stamp]:
        began = time.perf_counter()
        paths = (path for root in self._roots for path in _files(root, self._exclude))
        found = {path: stamp for path in paths if (stamp := _stamp(path)) is not None}
        self.seconds = time.perf_counter() - began
        return found


def roots_of(app: str, here: Path, app_dir: Path | None = None) -> list[Path]:
    """What to watch for `app`, "package.module:app": `here`, and `app_dir` and its package if they are elsewhere."""
    places = [] if app_dir is None else [app_dir]
    spec = _spec(app.partition(":")[0].partition(".")[0], app_dir or here)
    if spec is not None:
        places += map(Path, spec.submodule_search_locations or filter(None, [spec.origin]))
    roots = [here]
    for place in places:
        if place.exists() and not any(place.is_relative_to(root) for root in roots):
            roots.append(place)
    return roots


def _spec(module: str, here: Path) -> ModuleSpec | None:
    """Where a top module would come from. It is not imported, nor does `here` get into our own path for it."""
    with contextlib.suppress(ImportError, ValueError):
        return PathFinder.find_spec(module, [str(here)]) or find_spec(module)
    return None


def _files(root: Path, exclude: Sequence[str]) -> Iterator[str]:
    if root.is_file():
        yield str(root)
        return
    for folder, folders, names in os.walk(root):
        # An environment of its own is somebody else's code, wherever it lies and whatever its name.
        below = os.path.relpath(folder, root)
        folders[:] = [
            name for name in folders if not (_skipped(folder, name) or _excluded(below, name, exclude))
        ]
        for name in names:
            if (name.endswith(".py") or name in SETTINGS) and not _excluded(below, name, exclude):
                yield os.path.join(folder, name)


def _excluded(below: str, name: str, exclude: Sequence[str]) -> bool:
    path = os.path.normpath(os.path.join(below, name))
    return any(fnmatch(name, pattern) or fnmatch(path, os.path.normpath(pattern)) for pattern in exclude)


def _skipped(folder: str, name: str) -> bool:
    environment = os.path.join(folder, name, "pyvenv.cfg")
    return name.startswith(".") or name in _SKIPPED or os.path.exists(environment)


def _stamp(path: str) -> _Stamp | None:
    """What differs after every way of writing a file; None when it is gone."""
    try:
        known = os.stat(path)
    except OSError:
        return None
    return known.st_mtime_ns, known.st_size, known.st_ino
