"""One tree of errors, each with a code of its own."""

from __future__ import annotations

from jobpipe.core import errors
from jobpipe.core.errors import JobpipeError, StorageBroken, StorageError, StorageFull, StorageRefused


def tree(root: type[JobpipeError]) -> list[type[JobpipeError]]:
    return [root, *(error for child in root.__subclasses__() for error in tree(child))]


def test_every_error_of_the_module_is_in_the_tree() -> None:
    ours = [
        value
        for value in vars(errors).values()
        if isinstance(value, type) and value.__module__ == errors.__name__
    ]
    assert ours
    assert all(issubclass(error, JobpipeError) for error in ours)


def test_each_code_means_one_thing() -> None:
    codes: dict[str, set[str]] = {}
    for error in tree(JobpipeError):
        if error.__module__ == errors.__name__:
            codes.setdefault(error.code, set()).add(error.__name__)
    shared = {code: names for code, names in codes.items() if len(names) > 1}
    assert shared == {"storage_down": {"StorageError", "StorageBroken", "StorageRefused", "StorageInUse"}}


def test_storage_errors_can_be_caught_as_one() -> None:
    for error in (StorageFull, StorageBroken, StorageRefused):
        assert issubclass(error, StorageError)


def test_an_error_speaks_its_sentence_unless_it_has_a_detail() -> None:
    assert str(errors.QueueFull()) == "queue is full"
    assert str(errors.QueueFull("queue 'a' holds 3 waiting tasks")) == "queue 'a' holds 3 waiting tasks"
    assert errors.Invalid("no", field="run_at").field == "run_at"
