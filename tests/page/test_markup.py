"""Whatever a name holds, it is text: it opens no element, ends no attribute and steers nothing."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnxmpq.errors import printable
from onnxmpq.page.markup import NOTHING, element, join, text
from tests.page.reports import Parsed

HOSTILE = (
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "' onmouseover='alert(1)",
    "</style><svg onload=alert(1)>",
    "-->]]></title><base href=//x>",
    "&lt;b&gt; &amp;",
    "javascript:alert(1)",
    "a\x00b\x1b[31m\u202egnp.exe\r\n",
    "\ud800",
)


@pytest.mark.parametrize("name", HOSTILE)
def test_names_are_text(name: str) -> None:
    page = Parsed(element("p", name, title=name, data_v=name).html)
    assert [tag for tag, _ in page.tags] == ["p"] and not page.faults
    assert page.tags[0][1] == {"title": printable(name), "data-v": printable(name)}
    assert "".join(page.texts["p"]) == printable(name)


@given(st.text(), st.text())
def test_text_survives(inner: str, attribute: str) -> None:
    page = Parsed(element("td", element("b", inner), inner, title=attribute).html)
    assert [tag for tag, _ in page.tags] == ["td", "b"] and not page.faults
    assert "".join(page.texts.get("b", [])) == printable(inner)
    assert page.tags[0][1]["title"] == printable(attribute)


def test_attributes() -> None:
    made = element("rect", class_="a", aria_label="b", hidden=True, x=0, width=12.5, title=None, checked=False)
    assert made.html == '<rect class="a" aria-label="b" hidden x="0" width="12.5"></rect>'


def test_children() -> None:
    assert element("p", "a", None, NOTHING, 3, text("<")).html == "<p>a3&lt;</p>"
    assert join(["a", element("wbr"), "b"]).html == "a<wbr>b"
