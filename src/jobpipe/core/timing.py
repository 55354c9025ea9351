"""Durations that must keep their distance, although different rooms wait for them."""

DEFERRED_S = 0.03
"""How long a deferred claim may be missing in the file, in seconds: many times what a short run takes."""
PREFETCHED_S = DEFERRED_S / 2
"""How long a prefetched task may wait for a worker: it is given back well before its claim is written."""
