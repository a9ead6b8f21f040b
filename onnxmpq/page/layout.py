"""One HTML file that loads nothing: style sheet and script are in it, and its policy forbids everything else."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from pathlib import Path

import onnxmpq
from onnxmpq.page.markup import Markup, element, trusted

_HERE = Path(__file__).parent


def page(title: str, header: Markup, sections: Sequence[tuple[str, str, Markup]], *, first: Markup) -> str:
    """The file's text. header: what stands above `first`, which has no heading in the list of sections. sections: id,
    heading, content."""
    style, script = (_HERE.joinpath(name).read_text(encoding="utf-8") for name in ("style.css", "sort.js"))
    links = [element("li", element("a", heading, href=f"#{name}")) for name, heading, _ in sections]
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", http_equiv="Content-Security-Policy", content=_policy(style, script)),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name="referrer", content="no-referrer"),
        element("meta", name="generator", content=f"onnxmpq {onnxmpq.__version__}"),
        element("link", rel="icon", href="data:,"),
        element("title", title),
        element("style", trusted(style)),
    )
    parts = [element("section", element("h2", heading), content, id=name) for name, heading, content in sections]
    body = element(
        "body",
        element("a", "Skip to the verdict", href="#main", class_="skip"),
        element(
            "div",
            header,
            element("main", first, element("nav", element("ul", *links), aria_label="Sections"), *parts, id="main"),
            element("footer", f"Made by onnxmpq {onnxmpq.__version__}. This file loads nothing from the network."),
            class_="page",
        ),
        element("script", trusted(script)),
    )
    return f"<!DOCTYPE html>\n{element('html', head, body, lang='en').html}\n"


def _policy(style: str, script: str) -> str:
    """Nothing is loaded, and of scripts and styles only ours count, by their content."""
    return (
        f"default-src 'none'; script-src '{_hash(script)}'; style-src '{_hash(style)}'; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )


def _hash(content: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(content.encode("utf-8")).digest()).decode("ascii")


def missing(needs: str) -> Markup:
    """Instead of a section for which the document lacks the figures."""
    return element("p", f"Not in this file. {needs}", class_="missing")
