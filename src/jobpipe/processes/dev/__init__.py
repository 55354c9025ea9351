"""Development: a server that starts again whenever the code changes.

A parent process watches files and keeps `jobpipe serve` as its child. It imports neither the app nor the server, so
that no mistake in the code can end it.
"""
