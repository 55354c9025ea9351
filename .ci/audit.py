"""Known vulnerabilities of what is installed, as pip-audit finds them: exit 1 when there are any.

Where the advisories cannot be reached it says so, in a warning and not in a failure: a commit is not at fault for a
network. The tools that every new environment brings are not ours to answer for.
"""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

COMMAND = (sys.executable, "-m", "pip_audit", "--format=json", "--progress-spinner=off", "--timeout=10")
NOT_OURS = frozenset({"jobpipe", "pip", "setuptools", "wheel"})
PATIENCE_S = 300


def judge(report: dict[str, Any]) -> tuple[int, list[str]]:
    """The exit code, and what there is to say about pip-audit's report."""
    looked_at = [entry for entry in report["dependencies"] if entry["name"].lower() not in NOT_OURS]
    audited = [entry for entry in looked_at if "vulns" in entry]
    found = [
        f"{entry['name']} {entry['version']}: {vuln['id']}, mended in {', '.join(vuln['fix_versions']) or 'none yet'}"
        for entry in audited
        for vuln in entry["vulns"]
    ]
    if not audited:
        return 0, ["warning: the advisories could not be reached, nothing was audited"]
    missing = len(looked_at) - len(audited)
    left_out = [f"warning: {missing} packages are unknown to the advisories"] if missing else []
    return (1 if found else 0), [
        *found,
        *left_out,
        f"{len(audited)} packages audited, {len(found)} vulnerabilities",
    ]


def main() -> int:
    """Run pip-audit and say what it found; the exit code."""
    try:
        ran = subprocess.run(COMMAND, capture_output=True, text=True, timeout=PATIENCE_S, check=False)
        code, lines = judge(json.loads(ran.stdout))
    except subprocess.TimeoutExpired:
        code, lines = 0, ["warning: the advisories did not answer in time, nothing was audited"]
    except ValueError:
        # No report at all: pip-audit itself says why, mostly that there is no network.
        why = (ran.stderr.strip().splitlines() or ["no reason given"])[-1]
        code, lines = 0, [f"warning: nothing was audited: {why}"]
    print("\n".join(lines))
    return code


if __name__ == "__main__":
    sys.exit(main())
