"""The HTTP edge: parse, call TaskQueue, answer. What a request means is decided by the engine."""

from jobpipe.http.app import create_app
from jobpipe.http.config import HttpConfig
from jobpipe.http.server import HttpServer, listen

__all__ = ["HttpConfig", "HttpServer", "create_app", "listen"]
