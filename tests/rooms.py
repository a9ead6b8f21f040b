"""The picture in docs/architecture.md, from the imports: `python -m tests.rooms` prints it.

Rooms that `pipeline` imports, and an arrow from each to those that it is built on: to the nearest ones only, since
what they are built on follows (the transitive reduction). Rooms that almost all others import are left out.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import onnxmpq

PACKAGE = Path(onnxmpq.__file__).parent
COMMON = (
    "cache",
    "context",
    "errors",
    "files",
    "isolation",
    "keys",
    "progress",
    "threads",
)


def imports() -> Iterator[tuple[Path, tuple[str, ...]]]:
    """(file below the package, imported module below it) of every import between two rooms. A room is a folder or a
    file directly under the package."""
    for path in sorted(PACKAGE.rglob("*.py")):
        here = path.relative_to(PACKAGE)
        if here.parts[0] in ("__init__.py", "__main__.py"):
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.ImportFrom) or node.level or not node.module:
                continue
            root, *there = node.module.split(".")
            names = [there] if there else [[alias.name] for alias in node.names]
            yield from ((here, tuple(n)) for n in names if root == "onnxmpq" and n[0] != room(here))


def room(path: Path) -> str:
    return path.parts[0].removesuffix(".py")


def edges() -> dict[str, set[str]]:
    """Room -> rooms that it imports."""
    found: dict[str, set[str]] = {}
    for path, there in imports():
        found.setdefault(room(path), set()).add(there[0])
        found.setdefault(there[0], set())
    return found


def below(graph: dict[str, set[str]]) -> dict[str, set[str]]:
    """Room -> all rooms that it is built on, directly or not."""
    found: dict[str, set[str]] = {}
    for name in TopologicalSorter(graph).static_order():
        found[name] = graph[name].union(*(found[n] for n in graph[name])) if graph[name] else set()
    return found


def picture() -> str:
    """A mermaid flow chart."""
    graph = edges()
    shown = sorted((graph["pipeline"] | {"pipeline"}) - set(COMMON))
    under = below(graph)
    lines = ["```mermaid", "flowchart TD"]
    for name in shown:
        direct = under[name] & set(shown)
        nearest = sorted(n for n in direct if not any(n in under[other] for other in direct))
        lines += [f"  {name} --> {other}" for other in nearest]
    return "\n".join([*lines, "```"])


if __name__ == "__main__":
    print(picture())
