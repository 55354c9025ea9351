"""A worker process: loads an app and works on a server's tasks over HTTP, and the parent that keeps such processes.

`python -m jobpipe.processes.worker` is the process itself, started by a supervisor; `parent` composes the
command `jobpipe worker`. The server's own worker processes are the same program, over a Unix socket.
"""
