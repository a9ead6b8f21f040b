"""The two laws of CONTRIBUTING.md, read from the package's imports: by the face only, and in one direction."""

from __future__ import annotations

import ast
from graphlib import TopologicalSorter

from tests.rooms import PACKAGE, imports, picture, room


def test_rooms_are_entered_by_their_faces() -> None:
    """`from onnxmpq.room import x`, never `from onnxmpq.room.inner import x`: a room is free to change inside."""
    found = list(imports())
    assert len(found) > 300, "the walk sees the package"
    assert not [f"{path} imports onnxmpq.{'.'.join(there)}" for path, there in found if len(there) > 1]


def test_imports_go_one_way() -> None:
    """Raises CycleError with the rooms of a circle."""
    edges: dict[str, set[str]] = {}
    for path, there in imports():
        edges.setdefault(room(path), set()).add(there[0])
    order = list(TopologicalSorter(edges).static_order())
    assert order.index("rounding") < order.index("pipeline")


def test_modules_of_a_room_do_not_go_through_its_own_face() -> None:
    """Else the face cannot be imported before they are."""
    found = []
    for path in sorted(PACKAGE.rglob("*.py")):
        here = path.relative_to(PACKAGE)
        if len(here.parts) < 2 or here.name == "__init__.py":
            continue
        modules = {p.stem for p in (PACKAGE / here.parts[0]).iterdir()}
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.module == f"onnxmpq.{here.parts[0]}":
                found += [f"{here}: {a.name}" for a in node.names if a.name not in modules]
    assert not found


def test_the_picture_in_the_docs_is_that_of_the_imports() -> None:
    """docs/architecture.md; `python -m tests.rooms` prints it."""
    page = (PACKAGE.parent / "docs" / "architecture.md").read_text(encoding="utf-8")
    assert picture() in page
