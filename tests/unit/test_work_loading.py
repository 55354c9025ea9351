"""Loading the app that a command line names."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from jobpipe.work.errors import AppNotFound
from jobpipe.work.loading import load_app

numbers = itertools.count()
Write = Callable[[str], str]

GOOD = """
from jobpipe.work.app import App
app = App()
class Rooms:
    inner = App()

@app.handler
def work(): ...
"""


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Write]:
    """Writes a module into the working directory and gives its name, new each time."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    before = set(sys.modules)

    def module(text: str) -> str:
        name = f"users_module_{next(numbers)}"
        (tmp_path / f"{name}.py").write_text(text)
        return name

    yield module
    for name in set(sys.modules) - before:
        if name.startswith("users_module"):
            del sys.modules[name]


def refusal(name: str) -> str:
    with pytest.raises(AppNotFound) as caught:
        load_app(name)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_an_app_is_found_in_the_working_directory(write: Write) -> None:
    name = write(GOOD)
    assert load_app(f"{name}:app").get("work") is not None
    assert load_app(name) is load_app(f"{name}:app")


def test_an_app_may_be_inside_something(write: Write) -> None:
    assert not load_app(f"{write(GOOD)}:Rooms.inner").handlers


def test_the_working_directory_is_added_once(write: Write) -> None:
    name = write(GOOD)
    load_app(name)
    load_app(name)
    assert sys.path.count(str(Path.cwd())) == 1


@pytest.mark.parametrize("name", ["", ":app", ".relative:app"])
def test_what_names_no_module_is_refused(name: str) -> None:
    assert "should look like package.module:app" in refusal(name)


def test_a_missing_module_is_named(write: Write) -> None:
    name = write(GOOD)
    assert f"no module named 'users_module_missing', looked for from {Path.cwd()}" in refusal(
        "users_module_missing:app"
    )
    assert f"no module named '{name}.inner'" in refusal(f"{name}.inner:app")


def test_a_missing_attribute_is_named(write: Write) -> None:
    name = write(GOOD)
    assert refusal(f"{name}:other") == f"module '{name}' has no attribute 'other'"


def test_what_is_no_app_is_refused(write: Write) -> None:
    name = write(GOOD)
    assert refusal(f"{name}:work") == f"'{name}:work' is no jobpipe App but Handler"


@pytest.mark.parametrize(
    ("text", "words", "line"),
    [
        ("\nundefined", "NameError: name 'undefined' is not defined", 2),
        (
            "import users_module_dependency",
            "ModuleNotFoundError: No module named 'users_module_dependency'",
            1,
        ),
        ("\n\nx = (", "SyntaxError: '(' was never closed", 3),
        ("raise SystemExit(3)", "SystemExit: 3", 1),
        ("raise ValueError('two\\nlines')", "ValueError: two lines", 1),
        ("def f():\n  raise KeyError('k')\nf()", "KeyError: 'k'", 2),
    ],
)
def test_an_error_inside_the_module_is_told_with_its_place(
    write: Write, text: str, words: str, line: int
) -> None:
    name = write(text)
    message = refusal(f"{name}:app")
    assert message.startswith(f"importing '{name}' raised {words}")
    assert message.endswith(f"{name}.py:{line})")


def test_a_handler_that_cannot_be_bound_stops_the_loading(write: Write) -> None:
    name = write(GOOD + "@app.handler\ndef bad(n: 'Missing'): ...")
    assert "handler 'bad'" in refusal(name)


def test_an_app_is_found_in_the_folder_that_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "laid_out.py").write_text("from jobpipe import App\napp = App()\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    with pytest.raises(AppNotFound, match=r"nowhere, in which .* is no folder"):
        load_app("laid_out:app", "nowhere")
    with pytest.raises(AppNotFound, match="no module named 'laid_out'"):
        load_app("laid_out:app")
    assert not load_app("laid_out:app", "src").handlers
