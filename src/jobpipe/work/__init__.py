"""Running people's handlers: from a claim to its outcome.

`App` names handlers, `Executor` makes one outcome of one claim, `Pool` keeps its workers busy from a `TaskSource`.
What an outcome does to a task is decided elsewhere, by `jobpipe.core.lifecycle`.
"""
