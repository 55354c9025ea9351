"""The check of how src is built: it sees what it is there to see."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

SCRIPT = Path(__file__).parents[2] / ".ci" / "structure.py"


@pytest.fixture
def structure() -> ModuleType:
    spec = importlib.util.spec_from_file_location("structure", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_imports_for_type_checkers_and_within_functions_close_a_circle(
    structure: ModuleType, tmp_path: Path
) -> None:
    texts = {
        "p.a": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from p.b import B\n",
        "p.b": "def late():\n    from p import c\n",
        "p.c": "from .a import A\n",
        "p.d": "import p.a\n",
    }
    known = {name: tmp_path / f"{name}.py" for name in texts}
    for name, path in known.items():
        path.write_text(texts[name])
    graph = {name: structure.imports(name, path, known) for name, path in known.items()}
    assert list(structure.circles(graph)) == [["p.a", "p.b", "p.c"]]


def test_a_function_over_forty_lines_is_named_and_its_docstring_is_not_counted(
    structure: ModuleType, tmp_path: Path
) -> None:
    path = tmp_path / "long.py"
    body = "    x = 1\n" * 39
    told = '    """Said.\n\n    More.\n    """\n'
    path.write_text(f"def fits():\n{told}{body}\n\ndef long():\n{told}{body}    x = 2\n")
    assert list(structure.long_functions(path)) == [("long", 41)]


def test_a_file_that_the_guide_names_and_that_is_gone_is_told(structure: ModuleType) -> None:
    text = "`core/lifecycle.py`, `storage/*/columns.py` and `core/never_was.py`"
    assert list(structure.missing_files(text)) == ["core/never_was.py"]
