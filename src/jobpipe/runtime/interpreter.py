"""How to run a module of ours in another Python that finds what this one found.

Jobpipe need not be installed where every interpreter looks: `pip install --target`, a pex or a zip file are known to
`sys.path` alone.
"""

from __future__ import annotations

import json
import os
import site
import sys
from pathlib import Path

_BOOT = (
    "import json, runpy, sys; sys.path += [p for p in json.loads(sys.argv.pop(1)) if p not in sys.path]; "
    "runpy.run_module(sys.argv.pop(1), run_name='__main__', alter_sys=True)"
)
_HOME = str(Path(__file__).parent.parent)
"""The folder, or the file, that this package lies in."""


def python(module: str) -> list[str]:
    """The command that runs `module`; its arguments follow.

    Without -P the working folder would come first: a user's `queue.py` would hide Python's own from Jobpipe.
    """
    if _HOME in (*site.getsitepackages(), site.getusersitepackages()):
        return [sys.executable, "-P", "-m", module]
    # Behind what the other one finds itself, so that nothing of it is hidden; the working folder is not for us.
    paths = [path for path in sys.path if path and path != os.getcwd()]
    return [sys.executable, "-P", "-c", _BOOT, json.dumps(paths), module]
