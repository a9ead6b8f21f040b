"""Budget against prediction against measurement, and the rounds in which the plan was found."""

from __future__ import annotations

from collections.abc import Callable

from onnxmpq.allocate import MEMORY
from onnxmpq.page import figures
from onnxmpq.page.charts import legend, share
from onnxmpq.page.document import Document
from onnxmpq.page.markup import Markup, element, join
from onnxmpq.page.quantities import Taken, taken
from onnxmpq.page.sections.types import Section
from onnxmpq.page.tables import Cell, Column, table
from onnxmpq.page.tree import Tree


def build(document: Document) -> Markup | None:
    rows = taken(document)
    if not rows:
        return None
    return join(
        [
            element("p", _lead(document), class_="lead"),
            *(_chart(row) for row in rows),
            legend([("before", "fp32"), ("after", "this plan"), ("guess-key", "predicted"), ("limit-key", "budget")]),
            _table(rows),
            _threads(document.tree.rows("validation", "other_timings")),
            _steps(document.tree.rows("conclusion", "budget", "steps")),
            _sessions(document),
            _rounds(document),
        ]
    )


def _lead(document: Document) -> str:
    threads = document.plan.text("runtime", "threads")
    with_threads = f" with {threads} thread{'' if threads == '1' else 's'}" if threads else ""
    timing = document.tree.at("validation", "timing")
    rounds = timing.number("rounds")
    if document.plan.number("measured", "latency_ms") is None:
        return "Latency and energy are those of the target's model or table; the size is that of the written file."
    how = f", side by side with the original in {rounds:.0f} rounds" if rounds is not None else ""
    return f"Latency was measured on this machine{with_threads}{how}; the size is that of the written file."


def _chart(row: Taken) -> Markup:
    """fp32, and below it the plan, with the prediction on it and the budget across both."""
    known = [v for v in (row.original, row.limit, row.predicted, row.measured, row.high) if v is not None]
    largest = max(known) * 1.02 or 1.0
    parts = [
        element("rect", x=0, y=4, width=share(row.original, largest), height=12, rx=2, class_="before"),
        element("rect", x=0, y=22, width=share(row.result, largest), height=20, rx=2, class_="after"),
    ]
    if row.low is not None and row.high is not None:
        ends = {"x1": share(row.low, largest), "x2": share(row.high, largest)}
        parts.append(element("line", y1=32, y2=32, class_="interval", **ends))
    if row.predicted is not None:
        parts.append(element("circle", cx=share(row.predicted, largest), cy=32, r=5, class_="guess"))
    if row.limit is not None:
        at = share(row.limit, largest)
        parts.append(element("line", x1=at, x2=at, y1=0, y2=46, class_="limit"))
    words = (
        f"{row.title}: fp32 {row.show(row.original)}, this plan {row.show(row.result)}, budget {row.show(row.limit)}"
    )
    return element(
        "div",
        element("h3", row.title),
        element("svg", *parts, class_="track", height=46, role="img", aria_label=words),
        class_="quantity",
    )


def _table(rows: list[Taken]) -> Markup:
    columns = [
        Column("Quantity"),
        *(Column(c, numeric=True) for c in ("fp32", "Budget", "Predicted", "Measured")),
        Column("Met"),
    ]
    return table("Budget, prediction and measurement", columns, [_cells(row) for row in rows], sortable=False)


def _cells(row: Taken) -> list[Cell | str]:
    asked = row.show(row.limit) if row.limit is not None else row.asked or figures.UNKNOWN
    if row.asked.endswith("%") and row.limit is not None:
        asked = f"{row.asked} = {asked}"
    measured = row.show(row.measured)
    if row.low is not None and row.high is not None:
        measured += f" ({figures.ms(row.low)} to {figures.ms(row.high)})"
    met = figures.UNKNOWN if row.met is None else "yes" if row.met else "no"
    kind = {"yes": "yes", "no": "no"}.get(met)
    return [
        row.title,
        Cell(row.show(row.original), row.original),
        Cell(asked, row.limit),
        Cell(row.show(row.predicted), row.predicted),
        Cell(measured, row.measured),
        Cell(element("span", met, class_=kind)),
    ]


def _steps(steps: list[Tree]) -> Markup | None:
    """Phases of a decoder: milliseconds of a run, and tokens per second."""
    if not steps:
        return None
    names = ("New tokens", "Tokens in cache", "fp32 ms", "Plan ms", "Ratio", "fp32 tokens/s", "Plan tokens/s")
    columns = [Column("Phase"), *(Column(name, numeric=True) for name in names)]
    return join([element("h3", "Phases"), table("Latency by phase", columns, [_in_phase(step) for step in steps])])


def _in_phase(step: Tree) -> list[Cell | str]:
    counts = [step.number(name) for name in ("tokens", "before")]
    times = [step.number(name) for name in ("original_ms", "result_ms")]
    others = [step.number(name) for name in ("ratio", "original_tokens_per_s", "result_tokens_per_s")]
    shown = [*map(figures.plain, counts), *map(figures.ms, times), *map(figures.plain, others)]
    return [step.text("step"), *(Cell(text, n) for text, n in zip(shown, [*counts, *times, *others], strict=True))]


def _threads(timings: list[Tree]) -> Markup | None:
    """Latency with other numbers of threads than the one that the budget is about; 0 is a session's own number."""
    if not timings:
        return None
    columns = [Column("Threads"), *(Column(name, numeric=True) for name in ("fp32 ms", "Plan ms", "Ratio"))]
    rows = [_with_threads(timing) for timing in timings]
    return join([element("h3", "With other threads"), table("Latency with other threads", columns, rows)])


def _sessions(document: Document) -> Markup | None:
    """Time and memory that a session takes, of the original and of the plan's model, and the budget of memory."""
    sessions, asked = document.tree.rows("sessions"), document.plan.text("budgets", MEMORY)
    if len(sessions) != 2:
        return None
    opened = [found.number("load_s") for found in sessions]
    taken = [found.number("peak_bytes") for found in sessions]
    rows: list[list[Cell | str]] = [
        ["opens in, ms", *(Cell(figures.ms(None if s is None else s * 1e3), s) for s in opened), figures.UNKNOWN],
        ["memory with one run", *(Cell(figures.size(b), b) for b in taken), asked or figures.UNKNOWN],
    ]
    columns = [Column("A session"), *(Column(name, numeric=True) for name in ("fp32", "Plan", "Budget"))]
    return join([element("h3", "Sessions"), table("Time and memory of sessions", columns, rows, sortable=False)])


def _with_threads(timing: Tree) -> list[Cell | str]:
    threads, ratio = timing.whole("threads"), timing.number("ratio")
    seconds = [timing.number(f"{which}_s") for which in ("original", "result")]
    times = [None if s is None else s * 1e3 for s in seconds]
    named = "default of a session" if threads == 0 else figures.UNKNOWN if threads is None else str(threads)
    return [named, *(Cell(figures.ms(t), t) for t in times), Cell(figures.plain(ratio), ratio)]


def _rounds(document: Document) -> Markup | None:
    rounds = document.tree.rows("rounds")
    if not rounds:
        return None
    timed = document.plan.number("measured", "latency_ms") is not None
    shown: list[tuple[str, str, Callable[[float | None], str]]] = [("Predicted ms", "predicted_ms", figures.ms)]
    shown += [("Measured ms", "measured_ms", figures.ms)] if timed else []
    shown += [("Size", "size_bytes", figures.size), ("Predicted divergence", "effect", figures.effect)]
    columns = [Column("Round", numeric=True), *(Column(title, numeric=True) for title, _, _ in shown)]
    rows = [
        [Cell(str(number), number), *(Cell(show(r.number(field)), r.number(field)) for _, field, show in shown)]
        for number, r in enumerate(rounds, 1)
    ]
    said = _MEASURED if timed else _BUILT
    return join([element("h3", "Rounds"), element("p", said, class_="note"), table("Rounds", columns, rows)])


_MEASURED = (
    "In each round the plan was predicted, built and measured, and the costs learned from it. The prediction in the "
    "table above is by the costs that were learned in all rounds."
)
_BUILT = "In each round the plan was built, and its size taken from the file."
SECTION = Section("budget", "Budget, prediction, measurement", build)
