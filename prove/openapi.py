"""The server against its own description: schemathesis asks /openapi.json what may be sent, and sends that and more."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from prove.proof import Broken, Figure, Trial, none
from prove.servers import serving

COMMAND = Path(sys.executable).with_name("schemathesis")
CHECKS = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance"


def missing() -> str | None:
    """What this proof needs and is not here."""
    return None if COMMAND.exists() or shutil.which("schemathesis") else "schemathesis"


def openapi(trial: Trial) -> Sequence[Figure]:
    """Bounded by examples for each operation and by time."""
    examples = trial.sized(5, 40, 200)
    seconds = trial.sized(40, 180, 600)
    with serving(trial.folder, "--queue-size", "1000000", "--log-level", "WARNING") as server:
        url = f"http://127.0.0.1:{server.port}/openapi.json"
        report = trial.folder / "report.json"
        command = [
            str(COMMAND), "run", url, "--checks", CHECKS, "--max-examples", str(examples), "--max-time", str(seconds),
            "--seed", str(trial.seed), "--exclude-path", "/events", "--request-timeout", "70",
            "--report-json-path", str(report), "--no-color",
        ]  # fmt: skip
        ran = subprocess.run(command, capture_output=True, text=True, timeout=seconds + 300, check=False)
        alive = server.alive()
    cases = re.search(r"([\d,]+) generated", ran.stdout)
    if cases is None or ran.returncode not in (0, 1):
        raise Broken(f"schemathesis ended with {ran.returncode}:\n{ran.stdout[-3000:]}{ran.stderr[-2000:]}")
    if ran.returncode:
        print(ran.stdout[-6000:])
    return [
        Figure("requests made from /openapi.json", int(cases[1].replace(",", ""))),
        none("server errors", ran.stdout.count("Server error")),
        none("runs with answers that the description does not have", ran.returncode),
        none("servers harmed", not alive),
    ]
