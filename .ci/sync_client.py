"""`python .ci/sync_client.py`: makes the client for ordinary code from the one for asyncio; `--check` only compares.

Both are committed. What differs is a matter of words, and of nothing else: a twin written by hand would drift.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
CLIENT = ROOT / "src" / "jobpipe" / "client"
MADE = {"api.py": "async_api.py", "sync_schedules.py": "async_schedules.py"}
"""Files, and those that they are made from."""

WORDS = (
    (r"\basync (def|for|with)\b", r"\1"),
    (r"\bawait ", ""),
    (r"\basync_transport\b", "transport"),
    (r"\basync_schedules\b", "sync_schedules"),
    (r"\bAsync(Client|Transport|Iterator|Schedules)\b", r"\1"),
    (r"\b__a(enter|exit)__\b", r"__\1__"),
    (r"Calls to a server, from any number of coroutines, on one event loop or several; also an async context manager\.",
     "Calls to a server, from any number of threads; also a context manager."),
    (r", and they end with `close`, or with the event loop\.", ", and they end with `close`."),
)  # fmt: skip
HEAD = (
    '"""The client for ordinary code: one call, one answer. Made from `jobpipe.client.{}` by `make client`:\n'
    'change that one."""\n'
)


def made(name: str) -> str:
    """The text of one of the files."""
    source = CLIENT / MADE[name]
    text = source.read_text()
    text = text[text.index('"""', 3) + 4 :]
    for pattern, word in WORDS:
        text = re.sub(pattern, word, text)
    text = HEAD.format(source.stem) + text
    ruff = [Path(sys.executable).with_name("ruff"), "-q", f"--stdin-filename={CLIENT / name}"]
    for step in (["check", "--fix-only", "--select=I"], ["format"]):
        words = [str(ruff[0]), step[0], *map(str, ruff[1:]), *step[1:], "-"]
        text = subprocess.run(words, input=text, capture_output=True, text=True, check=True, cwd=ROOT).stdout
    return text


def main() -> int:
    """Write them, or say whether they are as they should be."""
    wrong = 0
    for name, source in MADE.items():
        file, text = CLIENT / name, made(name)
        if "--check" not in sys.argv:
            file.write_text(text)
        elif file.read_text() != text:
            print(f"{file.relative_to(ROOT)} is not what {source} makes: run make client", file=sys.stderr)
            wrong = 1
    return wrong


if __name__ == "__main__":
    sys.exit(main())
