"""The verdict: what was asked and measured, what the quality is worth, and what to do. It stands above all sections."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from onnxmpq.allocate import MEMORY
from onnxmpq.page import figures
from onnxmpq.page.document import Document
from onnxmpq.page.markup import Markup, element, join
from onnxmpq.page.quality import divergence
from onnxmpq.page.quantities import Taken, taken

Light = Literal["good", "care", "bad"]
UNSTEADY = 0.1  # of the ratio: a wider confidence interval says little
_QUALITY = {
    "good": "quality good",
    "noticeable": "quality noticeably worse than fp32",
    "bad": "quality bad",
    "unknown": "quality unknown",
}


@dataclass(frozen=True)
class Verdict:
    """light: green, amber or red. advice: empty where there is nothing to do."""

    light: Light
    words: str
    advice: str


def verdict(document: Document) -> Verdict:
    """In one line: of the budget and of the quality, the worse decides on the light."""
    level = level_of(document)
    words = f"{_of_budget(document)}; {_QUALITY.get(level, 'quality unknown')}"
    lights: list[Light] = [_LIGHTS.get(level, "care"), "good"]
    steps = [_ADVICE.get(level, "")]
    if document.plan.flag("met") is False:
        lights.append("bad")
        steps.append(_ADVICE["missed"])
    if unsteady(document):
        words, lights = f"{words}; timing unsteady", [*lights, "care"]
        steps.append(_ADVICE["unsteady"])
    if document.plan.texts("edits"):
        words, lights = f"{words}; edited plan", [*lights, "care"]
    said = "; ".join(document.tree.texts("conclusion", "advice"))
    advice = f"{said[:1].upper()}{said[1:]}." if said else " ".join(s for s in steps if s)
    return Verdict(max(lights, key=("good", "care", "bad").index), words, advice)


_LIGHTS: dict[str, Light] = {"good": "good", "bad": "bad"}
_ADVICE = {
    "bad": "Do not use this file. Allow more time or a larger file, or give a floor such as --min-agreement 99%.",
    "noticeable": "Check your own metric on your own data (--labels, --metric), or allow more time or a larger file.",
    "unknown": "Convert again with real samples (--calib): without them nobody knows what the quality is.",
    "missed": "Raise the budget to what was measured, or accept this plan as the closest one.",
    "unsteady": "Close other programs and measure again: onnxmpq validate ORIGINAL CONVERTED.",
}


def _of_budget(document: Document) -> str:
    met = document.plan.flag("met")
    if not document.plan.at("budgets"):
        return "Fastest plan"
    return {True: "Budget met", False: "Budget missed, this is the closest plan", None: "Budget not checked"}[met]


def _memory(document: Document) -> str:
    """Of a session with one run, where a limit was asked for and sessions were opened."""
    asked, sessions = document.plan.text("budgets", MEMORY), document.tree.rows("sessions")
    taken = sessions[-1].number("peak_bytes") if len(sessions) == 2 else None
    return f"{figures.size(taken)} measured in a session with one run" if asked and taken is not None else ""


def level_of(document: Document) -> str:
    """Of the quality: good, noticeable, bad or unknown."""
    return document.tree.text("verdict", "level") or document.plan.text("quality", "level") or "unknown"


def unsteady(document: Document) -> bool:
    """True if the measured ratio of latencies is known too badly to be relied on."""
    timing = document.tree.at("validation", "timing")
    ratio, low, high = (timing.number(name) for name in ("ratio", "ratio_low", "ratio_high"))
    return ratio is not None and low is not None and high is not None and high - low > UNSTEADY * ratio


def show(document: Document) -> Markup:
    """The panel, and the key figures below it."""
    found, plan = verdict(document), document.plan
    lines = [element("li", f"Asked: {_asked(document)}.")]
    lines += [element("li", f"{row.title}: {_measured(row)}.") for row in taken(document) if row.result is not None]
    lines += [element("li", f"Memory: {line}.") for line in [_memory(document)] if line]
    reasons = document.tree.texts("verdict", "reasons") or plan.texts("quality", "reasons")
    lines.append(element("li", f"Quality: {'; '.join(reasons) or _no_loss(document)}."))
    mine, int8 = (divergence(document.tree.at(name)) for name in ("validation", "int8"))
    if mine is not None and int8 is not None:
        beside = f"divergence {figures.effect(mine)}, that of static int8 {figures.effect(int8)}"
        lines.append(element("li", f"Beside what other tools make: {beside} on the same samples."))
    if exactness := plan.text("exactness"):
        lines.append(element("li", f"{exactness[:1].upper()}{exactness[1:]}."))
    panel = element(
        "div",
        element("h2", f"{found.words}."),
        element("ul", *lines),
        element("p", found.advice, class_="do") if found.advice else None,
        class_=f"verdict {found.light}",
    )
    return join([panel, element("div", *_tiles(document), class_="tiles")])


def _asked(document: Document) -> str:
    budgets = [(name.replace("_", "-"), value.text()) for name, value in document.plan.items("budgets")]
    return ", ".join(f"{name} {value}" for name, value in budgets) or "the lowest latency"


def _no_loss(document: Document) -> str:
    samples = document.tree.whole("validation", "samples")
    if level_of(document) != "good" or samples is None:
        return "no figures in this file" if level_of(document) != "good" else "no loss to be noticed"
    where = "held-out" if document.tree.flag("validation", "held_out") else "calibration"
    return f"no loss to be noticed on {figures.count(samples, f'{where} sample')}"


def _measured(row: Taken) -> str:
    how = "measured" if row.measured is not None else "predicted"
    if row.original is None or row.result is None:
        return f"{row.show(row.result)} {how}"
    ratio = f"{row.result / row.original:.1%} of fp32's" if row.original else ""
    return f"{row.show(row.result)} {how}, {ratio} {row.show(row.original)}"


def _tiles(document: Document) -> list[Markup]:
    found = []
    for row in taken(document):
        if row.result is not None:
            more = [f"fp32 {row.show(row.original)}"] if row.original is not None else []
            more += [row.change] if row.change else []
            found.append(_tile(row.title, row.show(row.result), ", ".join(more)))
    outputs = document.tree.rows("validation", "outputs")
    ratios = [r for o in outputs if (r := o.sqnr_db()) is not None]
    if ratios:
        found.append(_tile("SQNR of the worst output", figures.decibel(min(ratios)), "against fp32"))
    shares = [a for o in outputs if (a := o.number("top1_agreement")) is not None]
    if shares:
        found.append(_tile("Same top class as fp32", figures.percent(min(shares)), _samples(document)))
    metric = document.tree.at("validation", "metric")
    before, after = metric.number("original"), metric.number("result")
    if before is not None and after is not None:
        found.append(
            _tile(metric.text("name") or "Metric", f"{after:.4g}", f"fp32 {before:.4g}, {after - before:+.3g}")
        )
    return found


def _samples(document: Document) -> str:
    samples = document.tree.whole("validation", "samples")
    return "" if samples is None else f"on {figures.count(samples, 'sample')}"


def _tile(name: str, value: str, more: str) -> Markup:
    return element(
        "div",
        element("p", name, class_="name"),
        element("p", value, class_="value"),
        element("p", more, class_="more"),
        class_="tile",
    )
