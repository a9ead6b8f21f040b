"""The page of a fleet."""

from __future__ import annotations

from onnxmpq.page import FleetRow, render_fleet


def test_links_are_names_of_files() -> None:
    """Whatever they hold: `#`, `?` and `%` mean something in a link."""
    page = render_fleet("fleet", "one", ["model"], [FleetRow(["a"], [None], "a#1?x=%20:y\u00e9.html")], [])
    assert 'href="a%231%3Fx%3D%2520%3Ay%C3%A9.html"' in page
