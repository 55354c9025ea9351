"""Checks how src is built: no circle of imports, no long function, and no file in docs/architecture.md that is not there.

Imports under TYPE_CHECKING and inside functions count too: a circle that is only seen by a type checker is one for readers.
Run by `make vet`; prints what is wrong, a line each, and ends with 1.
"""

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "src" / "jobpipe"
GUIDE = ROOT / "docs" / "architecture.md"

MOST_LINES = 40  # of a function, without its docstring


def modules() -> dict[str, Path]:
    """Every module below src by its dotted name; a package by that of its folder."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imports(name: str, path: Path, known: dict[str, Path]) -> set[str]:
    """The modules of ours that one names in any import, wherever in the file that stands."""
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            for alias in node.names:
                inner = f"{base}.{alias.name}"
                found.add(inner if inner in known else base)
    return (found & known.keys()) - {name}


def circles(graph: dict[str, set[str]]) -> Iterator[list[str]]:
    """The groups of modules that reach each other, each once. What reaches what is small enough to be written down whole."""
    reached: dict[str, set[str]] = {}
    for start in graph:
        seen: set[str] = set()
        ahead = list(graph[start])
        while ahead:
            name = ahead.pop()
            if name not in seen:
                seen.add(name)
                ahead.extend(graph[name])
        reached[start] = seen
    told: set[str] = set()
    for name in sorted(graph):
        if name in reached[name] and name not in told:
            group = sorted(other for other in reached[name] if name in reached[other])
            told.update(group)
            yield group


def long_functions(path: Path) -> Iterator[tuple[str, int]]:
    """The functions of a file above MOST_LINES, as (name, lines), their docstrings not counted."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            first = node.body[0]
            told = ast.get_docstring(node, clean=False) is not None
            lines = (node.end_lineno or 0) - node.lineno + 1
            lines -= (first.end_lineno or 0) - first.lineno + 1 if told else 0
            if lines > MOST_LINES:
                yield node.name, lines


def missing_files(text: str) -> Iterator[str]:
    """The .py files that the guide names and that are neither below src/jobpipe nor below the repository."""
    for name in sorted(set(re.findall(r"`([\w./*-]+\.py)`", text))):
        places = (*PACKAGE.rglob(name), *ROOT.glob(name))
        if not places:
            yield name


def faults() -> Iterator[str]:
    known = modules()
    graph = {name: imports(name, path, known) for name, path in known.items()}
    for group in circles(graph):
        yield "circle of imports: " + ", ".join(group)
    for name, path in known.items():
        for function, lines in long_functions(path):
            yield f"{name}: {function} has {lines} lines, {MOST_LINES} at the most"
    for missing in missing_files(GUIDE.read_text()):
        yield f"docs/architecture.md names {missing}, which is not there"


if __name__ == "__main__":
    found = list(faults())
    print("\n".join(found) or "src is built as docs/architecture.md says")
    sys.exit(bool(found))
