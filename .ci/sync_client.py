"""`python .ci/sync_client.py`: makes the client for ordinary code from the one for asyncio; `--check` only compares.

Both are committed. What differs is a matter of words, and of nothing else: a twin written by hand would drift.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ROOT / "src" / "jobpipe" / "client" / "async_api.py"
MADE = SOURCE.with_name("api.py")

WORDS = (
    (r"\basync (def|for|with)\b", r"\1"),
    (r"\bawait ", ""),
    (r"\basync_transport\b", "transport"),
    (r"\bAsync(Client|Transport|Iterator)\b", r"\1"),
    (r"\b__a(enter|exit)__\b", r"__\1__"),
    (r"Calls to a server, from any number of coroutines, on one event loop or several; also an async context manager\.",
     "Calls to a server, from any number of threads; also a context manager."),
    (r", and they end with `close`, or with the event loop\.", ", and they end with `close`."),
)  # fmt: skip
HEAD = (
    '"""The client for ordinary code: one call, one answer. Made from `jobpipe.client.async_api` by `make client`:\n'
    'change that one."""\n'
)


def made() -> str:
    """The text of the client for ordinary code."""
    text = SOURCE.read_text()
    text = HEAD + text[text.index('"""', 3) + 4 :]
    for pattern, word in WORDS:
        text = re.sub(pattern, word, text)
    ruff = [Path(sys.executable).with_name("ruff"), "-q", f"--stdin-filename={MADE}"]
    for step in (["check", "--fix-only", "--select=I"], ["format"]):
        words = [str(ruff[0]), step[0], *map(str, ruff[1:]), *step[1:], "-"]
        text = subprocess.run(words, input=text, capture_output=True, text=True, check=True, cwd=ROOT).stdout
    return text


def main() -> int:
    """Write it, or say whether it is as it should be."""
    if "--check" not in sys.argv:
        MADE.write_text(made())
        return 0
    if MADE.read_text() == made():
        return 0
    print(f"{MADE.relative_to(ROOT)} is not what {SOURCE.name} makes: run make client", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
