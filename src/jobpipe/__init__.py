"""Jobpipe: a durable task queue server with nothing else to install."""
