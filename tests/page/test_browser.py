"""The page in a real browser. Skipped where there is no Chromium; the other tests of this folder need none."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from onnxmpq.page import as_document, render, render_comparison
from tests.page import chromium
from tests.page.reports import made_report
from tests.page.test_markup import HOSTILE
from tests.page.test_render import replaced

CHROMIUM = chromium.find()
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on PATH")
NAMES = [f"/layer.{n}/conv/Conv" for n in range(40)]
PHONE, DESK = 360, 1200  # pixels


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[chromium.Browser]:
    assert CHROMIUM is not None
    with chromium.opened(CHROMIUM, tmp_path_factory.mktemp("profile")) as found:
        yield found


@pytest.fixture
def page(browser: chromium.Browser, tmp_path: Path) -> chromium.Browser:
    """A browser that shows the page of 40 regions."""
    return shown(browser, tmp_path, render(as_document(made_report(NAMES))))


def shown(browser: chromium.Browser, folder: Path, html: str, width: int = DESK) -> chromium.Browser:
    browser.ask(
        "Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=width == PHONE
    )
    browser.ask("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": "light"}])
    (folder / "page.html").write_text(html, encoding="utf-8")
    browser.open(folder / "page.html")
    return browser


def test_opens_without_a_message_and_loads_nothing_else(page: chromium.Browser) -> None:
    assert page.messages() == []
    urls = [e["request"]["url"] for e in page.of("Network.requestWillBeSent")]
    assert [u for u in urls if not u.startswith(("file:", "data:"))] == []
    assert sum(u.startswith("file:") for u in urls) == 1


def test_charts_have_marks(page: chromium.Browser) -> None:
    """Seen ones: with a width and a height, inside the page."""
    drawn = """[...document.querySelectorAll(%r)].filter(e => {
        const r = e.getBoundingClientRect();
        return r.width > 0.4 && r.height > 0 && r.left >= 0 && r.right <= innerWidth; }).length"""
    assert page.value(drawn % "svg.scatter circle") >= 8
    assert page.value(drawn % "svg.track rect") == 4
    assert page.value(drawn % "#operators svg.bar rect") >= 8
    assert page.value(drawn % ".cells span") == len(NAMES)


@pytest.mark.parametrize("column, name", [(4, "fp32 ms"), (6, "Effect"), (8, "Stored bytes")])
def test_columns_of_numbers_are_sorted(page: chromium.Browser, column: int, name: str) -> None:
    head = f"document.querySelector('#regions table').tHead.rows[0].cells[{column}]"
    values = f"[...document.querySelector('#regions table').tBodies[0].rows].map(r => r.cells[{column}].dataset.v)"
    assert page.value(f"{head}.textContent") == name
    known = [float(v) for v in page.value(values) if v is not None]
    for direction, reverse in (("descending", True), ("ascending", False)):
        page.value(f"{head}.querySelector('button').click()")
        assert page.value(f"{head}.getAttribute('aria-sort')") == direction
        found = page.value(values)
        assert [float(v) for v in found if v is not None] == sorted(known, reverse=reverse)
        assert None not in found[: len(known)], "what is not known stands last"
    assert page.value("document.querySelectorAll('#regions table [aria-sort]').length") == 1


def test_names_are_sorted_as_people_count(page: chromium.Browser) -> None:
    page.value("document.querySelector('#regions table').tHead.rows[0].cells[1].querySelector('button').click()")
    rows = "[...document.querySelector('#regions table').tBodies[0].rows].map(r => r.cells[1].textContent)"
    assert page.value(rows) == NAMES


def test_the_keyboard_sorts(page: chromium.Browser) -> None:
    page.value("document.querySelector('#regions table').parentElement.focus()")
    page.press("Tab")
    assert page.value("document.activeElement.tagName + document.activeElement.textContent") == "BUTTON#"
    page.press("Enter", "\r")
    assert page.value("document.activeElement.closest('th').getAttribute('aria-sort')") == "descending"
    first = "document.querySelector('#regions table').tBodies[0].rows[0].cells[0].textContent"
    assert page.value(first) == str(len(NAMES))


def test_dark_and_light(page: chromium.Browser) -> None:
    colours = "[getComputedStyle(document.body).backgroundColor, getComputedStyle(document.body).color]"
    light = page.value(colours)
    page.ask("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": "dark"}])
    dark = page.value(colours)
    assert _brightness(light[0]) > 200 > 80 > _brightness(light[1])
    assert _brightness(dark[0]) < 80 < 200 < _brightness(dark[1])
    page.ask("Emulation.setEmulatedMedia", media="print", features=[{"name": "prefers-color-scheme", "value": "dark"}])
    assert page.value(colours) == light, "paper is light"


def _brightness(colour: str) -> float:
    """Mean of the channels of rgb(r, g, b)."""
    channels = [float(c) for c in colour.removeprefix("rgb(").removesuffix(")").split(",")]
    return sum(channels) / len(channels)


@pytest.mark.parametrize("width", [PHONE, DESK])
def test_only_tables_scroll_sideways(browser: chromium.Browser, tmp_path: Path, width: int) -> None:
    report = made_report([f"/model/encoder/block.{n}/{'deep' * 20}/Conv" for n in range(30)])
    for html in (render(as_document(report)), render_comparison(*[as_document(report)] * 2, ("a.json", "b.json"))):
        shown(browser, tmp_path, html, width)
        assert browser.value("document.documentElement.scrollWidth") <= width


@pytest.mark.parametrize("hostile", HOSTILE[:4])
def test_hostile_names_run_nothing(browser: chromium.Browser, tmp_path: Path, hostile: str) -> None:
    shown(browser, tmp_path, render(as_document(replaced(made_report(NAMES), hostile))))
    assert browser.messages() == []
    assert not browser.of("Page.javascriptDialogOpening")
    assert browser.value("document.scripts.length") == 1 and browser.value("document.images.length") == 0
