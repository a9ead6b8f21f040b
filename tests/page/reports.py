"""Reports as JSON that are made up: a small model, and any number of regions with any names."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from html.parser import HTMLParser
from typing import Any

VOID = frozenset({"meta", "link", "wbr"})
OPERATORS = ("Conv", "Add", "MatMul", "MaxPool")
SCHEMES = ("w4a8", "int8", "fp32", "int8")


def made_report(
    names: Sequence[str] = ("/a/Conv", "/a/Add", "/b/MatMul", "/b/MaxPool"), **changes: Any
) -> dict[str, Any]:
    """A report of schema 1 on a model of these regions. changes: other values of its fields."""
    regions = [made_region(number, name) for number, name in enumerate(names)]
    layers = [
        {
            "node": r["name"],
            "op_type": r["op_type"],
            "scheme": r["scheme"],
            "original": [f"{r['name']}_source"],
            "latency_ms": r["latency_ms"],
            "size_bytes": r["bytes"],
            "effect": r["effect"],
            "reason": "float32 is the fastest here" if r["scheme"] == "fp32" else "",
        }
        for r in regions
    ]
    report: dict[str, Any] = {
        "schema": "onnxmpq.report/1",
        "model": "small.onnx",
        "target": "cpu",
        "plan": made_plan(layers),
        "coverage": {"before": {}, "after": {}, "layers": {}, "left_alone": {}},
        "rounds": [{"predicted_ms": 1.2, "measured_ms": 1.3, "size_bytes": 4000.0, "effect": 0.01}],
        "validation": {
            "outputs": [made_output("good", 41.0), made_output("worse", 12.5)],
            "samples": 21,
            "held_out": True,
            "timing": {
                "original_s": 2e-3,
                "result_s": 1.3e-3,
                "ratio": 0.65,
                "threads": 1,
                "ratio_low": 0.64,
                "ratio_high": 0.66,
                "rounds": 12,
            },
            "emulated": False,
            "metric": {"name": "top-1", "original": 0.9, "result": 0.88},
        },
        "verdict": {"level": "good", "reasons": []},
        "original_bytes": 9000,
        "result_bytes": 4000,
        "calibration": "samples.npz (64 samples)",
        "synthetic": False,
        "notes": ["opset raised from 13 to 21"],
        "timings": {"reused": 3, "total": 16, "oldest_s": 60.0, "machine": "CPU 0123"},
        "curve": [
            {"latency_ms": 1.1, "size_bytes": 3000, "effect": 0.05, "energy_mj": None, "schemes": "2 int8"},
            {"latency_ms": 2.0, "size_bytes": 9000, "effect": 0.0, "energy_mj": None, "schemes": "2 fp32"},
        ],
        "warnings": ["rule chain: a warning"],
        "proven": True,
        "disagreement": None,
        "regions": regions,
        "transitions": [
            {
                "tensor": "x",
                "producer": None,
                "consumer": names[0],
                "change": "quantize",
                "latency_ms": 0.01,
            }
        ],
        "uniform": [
            made_uniform("fp32", 2.0, 0.0, measured=False),
            made_uniform("static int8", 1.0, 0.09, measured=True),
            made_uniform("w8", 2.0, None, measured=False),
        ],
    }
    return copy.deepcopy({**report, **changes})


def made_region(number: int, name: str) -> dict[str, Any]:
    op_type, scheme = OPERATORS[number % 4], SCHEMES[number % 4]
    layer = op_type in ("Conv", "MatMul")
    return {
        "name": name,
        "op_type": op_type,
        "pattern": f"{op_type}+Relu",
        "scheme": scheme,
        "latency_ms_fp32": 0.5 + number % 7,
        "latency_ms": 0.25 + number % 5,
        "effect": 1e-4 * (number % 11) if layer else 0.0,
        "effect_activations": 1e-5 * (number % 3),
        "bytes_fp32": 4000 + number if layer else None,
        "bytes": 1100 + number if layer else None,
        "shared_with": [],
    }


def made_plan(layers: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "model": {"name": "small.onnx", "sha256": "ab" * 32, "bytes": 9000},
        "target": "cpu",
        "dialect": "onnxruntime",
        "budgets": {"latency": "70%", "size": "5kB"},
        "layers": layers,
        "activations": {},
        "rounding": "nearest",
        "runtime": {
            "onnxmpq": "0.1.0",
            "onnxruntime": "1.32.0",
            "cpu": "A CPU",
            "cpu_features": "avx2",
            "threads": "1",
        },
        "prediction": {
            "latency_ms": 1.25,
            "size_bytes": 4100,
            "effect": 0.012,
            "solver_bound": 0.01,
            "solver_gap": 0.1,
            "original_latency_ms": 2.0,
        },
        "measured": {
            "size_bytes": 4000,
            "latency_ms": 1.3,
            "latency_ms_low": 1.28,
            "latency_ms_high": 1.32,
            "original_latency_ms": 2.0,
        },
        "met": True,
        "quality": {"level": "good", "reasons": []},
        "output_sha256": "cd" * 32,
        "notes": [],
        "deploy_cpu": "any",
        "exactness": "int8 arithmetic: exact on every supported CPU",
    }


def made_output(name: str, sqnr_db: float) -> dict[str, Any]:
    return {
        "name": name,
        "kind": "logits",
        "sqnr_db": sqnr_db,
        "cosine": 0.999,
        "relative_mse": 1e-4,
        "kl_nats": 2e-3,
        "top1_agreement": 0.95,
        "sqnr_unfused_db": sqnr_db + 0.2,
    }


def made_uniform(name: str, latency_ms: float, effect: float | None, *, measured: bool) -> dict[str, Any]:
    size = None if effect is None else 4000
    return {
        "name": name,
        "latency_ms": latency_ms,
        "measured": measured,
        "size_bytes": size,
        "effect": effect,
        "regions": 2,
    }


class Parsed(HTMLParser):
    """A page, taken apart. faults: elements that are not closed in the order in which they were opened."""

    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.faults: list[str] = []
        self.texts: dict[str, list[str]] = {}
        self.feed(page)
        self.close()
        self.faults += [f"{tag} is not closed" for tag in self.open]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if len(dict(attrs)) != len(attrs):
            self.faults.append(f"{tag} has an attribute twice")
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if not self.open or self.open.pop() != tag:
            self.faults.append(f"{tag} is closed out of order")

    def handle_data(self, data: str) -> None:
        self.texts.setdefault(self.open[-1] if self.open else "", []).append(data)

    @property
    def text(self) -> str:
        """What a reader sees or hears: text outside style and script, titles and labels."""
        shown = [t for tag, parts in self.texts.items() if tag not in ("style", "script") for t in parts]
        labels = [a[n] or "" for _, a in self.tags for n in ("title", "aria-label") if n in a]
        return "".join([*shown, *labels])

    def cells(self) -> list[str]:
        """Texts that end with an element, runs of text joined; names in tables are among them."""
        return ["".join(parts) for parts in self.texts.values()]
