"""wrk as the load generator, where it is installed: a request costs it a third of what it costs a Python program, which
on two cores is taken from the server that is measured.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import NamedTuple

from bench.client import BenchError

_SCRIPT = 'wrk.method = "POST"\nwrk.body = [==[{body}]==]\nwrk.headers["Content-Type"] = "application/json"\n'
_CHANGING = """
local n, mine = 0, tostring(os.time()) .. tostring({{}}):sub(8)
request = function()
  n = n + 1
  wrk.headers["{header}"] = mine .. "-" .. n
  return wrk.format()
end
"""
_DONE = re.compile(r"(\d+) requests in ([\d.]+)(ms|s|m)")
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0}


class Answered(NamedTuple):
    """How many requests were answered, and in how many seconds. A few more may have been under way at the end."""

    requests: int
    seconds: float


def installed() -> bool:
    """Whether there is one."""
    return shutil.which("wrk") is not None


def post(
    port: int, path: str, body: bytes, connections: int, seconds: int, header: str | None = None
) -> Answered:
    """Post the same again and again over so many connections; a `header` has another value each time.

    Raises BenchError when an answer is not 2xx.
    """
    with tempfile.TemporaryDirectory(prefix="jobpipe-wrk-") as folder:
        script = Path(folder) / "post.lua"
        changing = _CHANGING.format(header=header) if header else ""
        script.write_text(_SCRIPT.format(body=body.decode()) + changing)
        words = [
            "wrk",
            "-t1",
            f"-c{connections}",
            f"-d{seconds}s",
            "-s",
            str(script),
            f"http://127.0.0.1:{port}{path}",
        ]
        said = subprocess.run(words, capture_output=True, text=True, timeout=seconds + 30, check=False).stdout
    found = _DONE.search(said)
    if found is None or "Non-2xx" in said or "Socket errors" in said:
        raise BenchError(f"wrk: {said.strip()[-400:]}")
    return Answered(int(found[1]), float(found[2]) * _SECONDS[found[3]])
