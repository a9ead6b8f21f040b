"""Every rule finds what breaks it, and nothing in what does not."""

from __future__ import annotations

import re
from pathlib import Path

import onnx
import pytest

from onnxmpq.dialects import DIALECTS as WRITTEN
from onnxmpq.errors import OnnxmpqError, UsageError
from onnxmpq.lint import DIALECTS, RULES, Rule, lint, lint_export
from onnxmpq.runtimes.onnxruntime import probes
from tests.graphs import conv_relu, residual_cnn, token_model
from tests.lint.cases import CASES, CONV_BIAS_SCALE, STRICT, Case

PAGE = (Path(__file__).parents[2] / "docs" / "check.md").read_text(encoding="utf-8")


@pytest.fixture(autouse=True)
def made_up_runtime(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rules as functions of what a runtime does; what the installed one does is asked in test_runtime.py."""
    ignored = "conv-bias-ignored" in request.node.name
    monkeypatch.setattr(probes, "holds", lambda name: (STRICT | {CONV_BIAS_SCALE: ignored}).get(name, True))


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_finds_what_breaks_it(case: Case) -> None:
    before = case.breaks.SerializeToString(deterministic=True)
    found = [f for f in lint(case.breaks, case.dialect) if f.rule == case.rule]
    assert found, "nothing was found"
    assert all(f.message for f in found)
    assert any(case.node in f.node for f in found), [f.node for f in found]
    assert case.breaks.SerializeToString(deterministic=True) == before, "the model was changed"


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_finds_nothing_where_nothing_is(case: Case) -> None:
    assert [f for f in lint(case.keeps, case.dialect) if f.rule == case.rule] == []


@pytest.mark.parametrize("case", [c for c in CASES if c.rule != "valid"], ids=lambda case: case.id)
def test_the_cases_are_valid_onnx_themselves(case: Case) -> None:
    """So that a rule is not tried on graphs that no runtime would look at."""
    if case.rule not in ("opset", "scale-count"):
        onnx.checker.check_model(case.breaks, full_check=True)
    onnx.checker.check_model(case.keeps, full_check=True)


def test_every_rule_has_a_case_in_a_dialect_of_its() -> None:
    assert {c.rule for c in CASES} == {r.name for r in RULES}
    assert all(c.dialect in next(r for r in RULES if r.name == c.rule).severity for c in CASES)


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("proto", [conv_relu(), residual_cnn(), token_model()], ids=["conv", "residual", "tokens"])
def test_float_models_break_nothing(proto: onnx.ModelProto, dialect: str) -> None:
    assert lint(proto, dialect) == []


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)
def test_rules_say_what_and_where_from(rule: Rule) -> None:
    assert rule.summary.endswith("."), rule.summary
    assert re.match(r"https://\S+$|check\.md#measured$|(tensorrt|gpu)\.md#[\w-]+$", rule.source), "Source: URL"


def test_the_page_lists_every_rule() -> None:
    """docs/check.md, line by line; after a wanted change take the lines that this prints."""
    expected = [
        f"| `{r.name}` | {', '.join(f'{d}: {s}' for d, s in r.severity.items())} | {r.summary} | [source]({r.source}) |"
        for r in RULES
    ]
    assert [line for line in PAGE.splitlines() if line.startswith("| `")] == expected, "\n" + "\n".join(expected)


def test_unknown_dialect() -> None:
    with pytest.raises(UsageError, match=r"openvino.*tensorrt, onnxruntime, onnxruntime-cuda, portable"):
        lint(conv_relu(), "openvino")


def test_every_dialect_that_can_be_written_can_be_checked() -> None:
    assert set(WRITTEN) <= set(DIALECTS)


def test_an_export_may_break_only_what_was_broken_before() -> None:
    case = next(c for c in CASES if c.id == "onnxruntime.channel-axis")
    with pytest.raises(OnnxmpqError, match=r"breaks rule channel-axis .* at node 'DequantizeLinear -> e'"):
        lint_export(case.breaks, case.keeps, "onnxruntime")
    assert lint_export(case.breaks, case.breaks, "onnxruntime") == ()


def test_warnings_of_an_export_are_one_line_a_rule() -> None:
    case = next(c for c in CASES if c.id == "onnxruntime.conv-weight")
    [line] = lint_export(case.breaks, case.keeps, "onnxruntime")
    assert line.startswith("conv-weight: Conv -> y: ")
