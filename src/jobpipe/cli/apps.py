"""How the command line takes the name of an app."""

from __future__ import annotations

from jobpipe.settings.server import BadSetting


def check_spec(spec: str) -> None:
    """Raise BadSetting unless `spec` has the form package.module:app."""
    module, colon, name = spec.partition(":")
    parts = [*module.split("."), *name.split(".")]
    if not colon or not all(part.isidentifier() for part in parts):
        raise BadSetting("must look like package.module:app", "app", spec, "argument")
