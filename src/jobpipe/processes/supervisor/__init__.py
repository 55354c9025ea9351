"""Keeps worker processes: starts them, replaces those that die, stops them in order.

A supervisor never imports the app and knows no queue: whose tasks a dead process held, and what becomes of them, is for
the one who composed it. What parent and child say to each other is in `jobpipe.processes.supervisor.orders`.
"""
