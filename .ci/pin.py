"""Pins what the image and CI install, each with the hashes of its files: `pip install uv`, then this.

`pip install --require-hashes` takes the files as they are. They hold for every system and Python that is supported.
"""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
HEAD = "# Made by .ci/pin.py from pyproject.toml: what is installed with --require-hashes. Do not edit.\n"


def main() -> int:
    """Write the three files."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    # editables is what hatchling builds editable installs with.
    build = "\n".join([*project["build-system"]["requires"], "editables"])
    pin("build.txt", "-", given=build)
    pin("image.txt", "pyproject.toml", "--extra", "postgres")
    pin("ci.txt", "pyproject.toml", "-", "--extra", "dev", given=build)
    return 0


def pin(name: str, *inputs: str, given: str = "") -> None:
    """Resolve the inputs, "-" standing for `given`, for the oldest Python and up."""
    command = [
        sys.executable,
        "-m",
        "uv",
        "pip",
        "compile",
        "--quiet",
        "--universal",
        "--python-version",
        "3.11",
    ]
    command += [
        "--generate-hashes",
        "--no-annotate",
        "--no-header",
        "--no-emit-index-url",
        "--upgrade",
        *inputs,
    ]
    made = subprocess.run(command, cwd=ROOT, input=given, capture_output=True, text=True, check=False)
    if made.returncode:
        sys.exit(f"{name}: {made.stderr.strip()}")
    (ROOT / "constraints" / name).write_text(HEAD + made.stdout)


if __name__ == "__main__":
    sys.exit(main())
