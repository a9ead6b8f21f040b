"""Conversions end to end: models of every make, and what comes back from them."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import onnxmpq
from onnxmpq.deployment import DeployCpu, foreign, this_cpu
from onnxmpq.errors import ModelError, NothingToQuantizeError, UsageError
from onnxmpq.feeds.types import Feeds
from onnxmpq.files import serialize
from onnxmpq.lint import lint
from onnxmpq.progress import Progress
from onnxmpq.provenance import describe_runtime
from onnxmpq.quality import Reference, Timing
from onnxmpq.report.report import verdict_lines
from onnxmpq.result import Result
from onnxmpq.runtimes import SessionSettings
from onnxmpq.runtimes.onnxruntime import probes
from onnxmpq.schemes import SCHEMES, Format, scheme_named
from onnxmpq.shipping import ship
from tests.conftest import QUICK, SAMPLES
from tests.graphs import conv_relu, graph, outputs_of, residual_cnn, samples_for, token_model
from tests.tables import int8_pays

FAST = ("gptq", "descent", "smoothquant", "channel-order", "bias-correction")
"""Rounding to nearest: what is tested here is everything around it."""
DIGITS: Any = {"calibration": SAMPLES / "digits_calib.npz", "samples": 12, "effort": QUICK, "without": FAST}


def with_integer_output() -> onnx.ModelProto:
    return graph(
        "y = MatMul (x, w)  z = Tanh (y)  best = ArgMax <axis = 1> (z)",
        "float[N, 32] x",
        "float[N, 32] z, int64[N, 1] best",
        "float[32, 32] w",
    )


def with_branches() -> onnx.ModelProto:
    return graph(
        """a = MatMul (x, w)
           total = ReduceSum <keepdims = 0> (a)
           flag = Greater (total, zero)
           b = If (flag) <
               then_branch = t () => (float[N, 32] u) { u = Relu (a) },
               else_branch = e () => (float[N, 32] v) { v = Add (a, a) }
           >
           y = MatMul (b, w2)""",
        "float[N, 32] x",
        "float[N, 8] y",
        "float[32, 32] w, float[32, 8] w2, float zero = {0.0}",
    )


def with_empty_output() -> onnx.ModelProto:
    """What a detector does that finds nothing: an output whose length depends on the data, and may be 0."""
    return graph(
        """y = MatMul (x, w)
           hits = Greater (y, limit)
           rows = NonZero (hits)
           turned = Transpose (rows)
           found = GatherND (y, turned)""",
        "float[1, 32] x",
        "float[1, 8] y, float[K] found",
        "float[32, 8] w, float limit = {2.5}",
    )


def half_quantized() -> onnx.ModelProto:
    return graph(
        """q = QuantizeLinear (x, s, z)
           d = DequantizeLinear (q, s, z)
           a = MatMul (d, w0)
           b = Tanh (a)
           y = MatMul (b, w1)""",
        "float[N, 32] x",
        "float[N, 16] y",
        "float[32, 32] w0, float[32, 16] w1, float s = {0.02}, uint8 z = {128}",
    )


def fixed_batch() -> onnx.ModelProto:
    return graph(
        "c = Conv <kernel_shape = [3, 3]> (x, w)  y = Relu (c)",
        "float[1, 16, 6, 6] x",
        "float[1, 16, 4, 4] y",
        "float[16, 16, 3, 3] w",
    )


@dataclass(frozen=True)
class Case:
    """A model to convert by a table that favours int8. layers: how many must become int8."""

    id: str
    proto: onnx.ModelProto = field(repr=False)
    layers: int
    samples: int = 16


CASES = [
    Case("residual network", residual_cnn(), 4),
    Case("old opset", conv_relu(9), 1),
    Case("int64 tokens, several inputs and outputs, dynamic axes", token_model(), 2),
    Case("integer output", with_integer_output(), 1),
    Case("branches", with_branches(), 2),
    Case("output that may be empty", with_empty_output(), 1),
    Case("half quantized already", half_quantized(), 1),
    Case("fixed batch", fixed_batch(), 1),
    Case("two samples", residual_cnn(), 4, samples=2),
]


def convert(case: Case, folder: Path, **options: object) -> Result:
    table = int8_pays(case.proto, folder)
    chosen = {"latency": "fastest", "cost_table": table, "effort": QUICK, "without": FAST, **options}
    return onnxmpq.convert(case.proto, calibration=samples_for(case.proto, case.samples), **chosen)  # type: ignore[arg-type]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_every_make_of_model(case: Case, tmp_path: Path) -> None:
    before = serialize(case.proto)
    result = convert(case, tmp_path, output=tmp_path / "out.onnx")
    assert serialize(case.proto) == before, "the given model was changed"
    onnx.checker.check_model(result.model, full_check=True)
    int8 = [r for r in result.plan.layers if r.scheme in ("int8", "w4a8") and r.size_bytes is not None]
    assert len(int8) == case.layers
    assert (tmp_path / "out.onnx").read_bytes() == serialize(result.model)
    applied = onnxmpq.apply(case.proto, tmp_path / "out.plan.json")
    assert serialize(applied) == serialize(result.model)
    names = [o.name for o in case.proto.graph.output]
    assert [o.name for o in result.report.validation.outputs] == [n for n in names if n != "found"]
    inputs = {n: v[:1] for n, v in samples_for(case.proto).items()}
    assert list(outputs_of(result.model, inputs)) == names  # in a default session


def test_quality_is_that_of_the_written_model(tmp_path: Path) -> None:
    case = CASES[0]
    result = convert(case, tmp_path)
    x = samples_for(case.proto, 64, seed=9)
    reference, found = (outputs_of(m, x)["y"] for m in (case.proto, result.model))
    noise = 10 * np.log10(np.square(reference).sum() / np.square(reference - found).sum())
    [quality] = result.report.validation.outputs
    assert noise == pytest.approx(quality.sqnr_db, abs=12)  # 4 samples against 64
    assert noise > 20


def test_same_input_same_bytes(tmp_path: Path) -> None:
    one, two = (convert(CASES[0], tmp_path, seed=3) for _ in range(2))
    assert serialize(one.model) == serialize(two.model)
    assert one.plan.activations == two.plan.activations


def test_external_data(tmp_path: Path) -> None:
    """The original's size counts its external data, so a relative budget is of all of it."""
    path = tmp_path / "model.onnx"
    onnx.save_model(residual_cnn(), path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    calibration = samples_for(residual_cnn(), 8)
    result = onnxmpq.convert(
        path, size="60%", calibration=calibration, effort=QUICK, without=FAST, output=tmp_path / "out.onnx"
    )
    assert {n: (tmp_path / n).read_bytes() for n in before} == before
    assert result.report.result_bytes <= 0.6 * sum(map(len, before.values()))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["model.onnx", "out.onnx", "out.plan.json", "weights.bin"]


@pytest.mark.parametrize("budget", ["40%", "smallest"])
def test_size_budget_is_of_the_file(budget: str, tmp_path: Path) -> None:
    sample = SAMPLES / "digits_cnn.onnx"
    calibration = SAMPLES / "digits_calib.npz"
    output = tmp_path / "small.onnx"
    result = onnxmpq.convert(
        sample, size=budget, calibration=calibration, samples=12, effort=QUICK, output=output, without=FAST
    )
    assert output.stat().st_size == result.report.result_bytes <= 0.4 * sample.stat().st_size
    kept_float = all(SCHEMES[r.scheme].reads is Format.FLOAT for r in result.plan.layers)
    assert kept_float, "size alone leaves activations alone"


@pytest.mark.parametrize("sample", ["digits_cnn", "digits_transformer"])
def test_samples_get_faster(sample: str) -> None:
    path = SAMPLES / f"{sample}.onnx"
    before = path.read_bytes()
    result = onnxmpq.convert(path, **DIGITS)
    assert path.read_bytes() == before
    assert {r.scheme for r in result.plan.layers} != {"fp32"}
    [logits] = result.report.validation.outputs
    assert logits.kind == "logits" and logits.top1_agreement is not None
    assert logits.top1_agreement >= 0.75 and logits.sqnr_db > 12
    assert result.report.validation.held_out
    assert result.plan.measured["latency_ms"] < result.plan.measured["original_latency_ms"]


class Notes(Progress):
    """Collects what the user is told."""

    def __init__(self) -> None:
        self.warnings: list[str] = []
        self.said: list[str] = []

    def say(self, message: str) -> None:
        self.said.append(message)

    def detail(self, message: str) -> None:
        self.said.append(message)

    def warn(self, message: str) -> None:
        self.warnings.append(message)


def test_made_up_inputs_are_announced() -> None:
    notes = Notes()
    result = onnxmpq.convert(conv_relu(), size="smallest", effort=QUICK, samples=8, progress=notes)
    assert list(result.report.warnings) == notes.warnings and any("made up" in w for w in notes.warnings)
    assert result.report.synthetic
    assert set(result.plan.compensation) == {"first", "cross"}, "no biases corrected by made-up means"
    real = onnxmpq.convert(conv_relu(), size="smallest", effort=QUICK, calibration=samples_for(conv_relu(), 11))
    assert set(real.plan.compensation) == {"first", "cross", "bias-correction"}


def test_too_few_samples_are_announced(tmp_path: Path) -> None:
    notes = Notes()
    result = convert(CASES[-1], tmp_path, progress=notes)
    assert any("validated on the same samples" in w for w in notes.warnings)
    assert not result.report.validation.held_out


def test_excluded_nodes_stay_float(tmp_path: Path) -> None:
    case = CASES[0]
    result = convert(case, tmp_path, exclude=["Conv_[03]", "/^Gem+_/"])
    schemes = {r.node: r for r in result.plan.layers}
    assert schemes["Conv_5"].scheme != "fp32"
    for region in ("Conv_0", "Conv_3", "Gemm_10"):
        assert (schemes[region].scheme, schemes[region].reason) == ("fp32", "excluded by the user")


@pytest.mark.parametrize("pattern", ["nothing", "conv_*", "/[/", "/zzz/"])
def test_an_exclusion_that_matches_nothing_is_an_error(pattern: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--exclude"):
        convert(CASES[0], tmp_path, exclude=[pattern])


def test_original_names_can_be_excluded(tmp_path: Path) -> None:
    """Also those of nodes that were folded away."""
    sample = SAMPLES / "digits_cnn.onnx"
    folded = next(n.name for n in onnx.load(sample).graph.node if n.op_type == "BatchNormalization")
    result = onnxmpq.convert(
        sample,
        size="60%",
        calibration=SAMPLES / "digits_calib.npz",
        samples=8,
        effort=QUICK,
        exclude=[folded],
        without=FAST,
    )
    [row] = [r for r in result.plan.layers if r.reason == "excluded by the user"]
    assert folded in row.original


def test_a_model_without_layers() -> None:
    proto = graph("y = Relu (x)", "float[N, 8] x", "float[N, 8] y")
    with pytest.raises(NothingToQuantizeError, match="none of the model's 0 layers"):
        onnxmpq.convert(proto, calibration=samples_for(proto, 8), effort=QUICK)


def test_a_model_that_computes_nan() -> None:
    body = "a = MatMul (x, w)  b = Abs (a)  c = Neg (b)  y = Log (c)"
    proto = graph(body, "float[N, 8] x", "float[N, 4] y", "float[8,4] w")
    with pytest.raises(ModelError, match=r"at output 'y' for calibration sample 0: NaN first .* node '\w+' \(Log\)"):
        onnxmpq.convert(proto, calibration=samples_for(proto, 8), effort=QUICK)


def test_outputs_without_a_shape_of_their_own(tmp_path: Path) -> None:
    proto = with_empty_output()
    del proto.graph.output[0]
    with pytest.raises(ModelError, match="no output holds a number for any sample"):
        convert(Case("detections", proto, 0), tmp_path)


def test_a_converted_model_can_be_converted_again(tmp_path: Path) -> None:
    """Its quantized layers are left alone; names do not clash."""
    case = Case("tokens", token_model(), 0)
    first = convert(case, tmp_path, exclude=["MatMul_9"]).model
    result = convert(Case("again", first, 0), tmp_path, latency=None, cost_table=None, size="smallest")
    onnx.checker.check_model(result.model, full_check=True)
    assert set(result.plan.schemes) == {"MatMul_9"}


def test_every_technique_together(tmp_path: Path) -> None:
    case = Case("residual network", residual_cnn(), 4, samples=24)
    result = convert(case, tmp_path, output=tmp_path / "out.onnx", without=())
    applied = onnxmpq.apply(case.proto, tmp_path / "out.plan.json")
    assert serialize(applied) == serialize(result.model)
    assert result.plan.weights


def test_uint8_weights_that_are_asked_for(tmp_path: Path) -> None:
    """Planned, written and applied again; the weights are those of int8, stored with 128 added."""
    proto, path = residual_cnn(), tmp_path / "m.onnx"
    result = onnxmpq.convert(
        proto,
        latency="90%",
        schemes=["u8u8"],
        calibration=samples_for(proto, 16),
        cost_table=int8_pays(proto, tmp_path, "u8u8"),
        effort=QUICK,
        output=path,
    )
    assert set(result.plan.schemes.values()) == {"u8u8"}
    assert serialize(onnxmpq.apply(proto, tmp_path / "m.plan.json")) == path.read_bytes()
    stored = [t for t in result.model.graph.initializer if t.name.endswith("/codes")]
    assert [t.data_type for t in stored] == [onnx.TensorProto.UINT8] * len(result.plan.schemes)
    assert all(onnx.numpy_helper.to_array(t).min() >= 1 for t in stored)


def test_a_looser_budget_loses_less(tmp_path: Path) -> None:
    """By the made-up table int8 halves a region's time: the tighter the budget, the more becomes int8."""
    results = [convert(CASES[0], tmp_path, latency=budget) for budget in ("60%", "80%", "95%")]
    for result, share in zip(results, (0.6, 0.8, 0.95), strict=True):
        assert result.plan.prediction["latency_ms"] <= share * result.plan.prediction["original_latency_ms"] * 1.0001
    counts = [len(r.plan.schemes) for r in results]
    effects = [r.plan.prediction["effect"] for r in results]
    assert counts == sorted(counts, reverse=True) and counts[0] > counts[-1]
    assert effects == sorted(effects, reverse=True)


def test_coverage_counts_every_weight_byte(tmp_path: Path) -> None:
    case = CASES[0]
    result = convert(case, tmp_path, exclude=["Conv_3"])
    coverage = result.report.coverage
    parameters = sum(int(np.prod(t.dims)) for t in case.proto.graph.initializer if len(t.dims) > 1)
    assert coverage.total_bytes == 4 * parameters
    assert coverage.total_bytes - coverage.quantized_bytes == coverage.before["fp32"] == 4 * 16 * 16 * 9
    assert coverage.left_alone == {"Conv_3": "excluded by the user"}
    assert sum(coverage.layers.values()) == 4


def test_bits_between_the_runtimes_own_types(tmp_path: Path) -> None:
    """On hardware that computes in any bits, a low budget takes fewer than 8 for activations too; the file says so."""
    proto, path = residual_cnn(), tmp_path / "m.onnx"
    result = onnxmpq.convert(
        proto, latency="33%", target="bismo-edge", calibration=samples_for(proto, 16), effort=QUICK, output=path
    )
    schemes = {scheme_named(row.scheme) for row in result.plan.layers}
    assert any(s.simulated for s in schemes) and any(s.activation_bits < 8 for s in schemes)
    assert result.plan.prediction["latency_ms"] <= 0.33 * result.plan.prediction["original_latency_ms"]
    assert any(note.startswith("simulated: w") for note in result.plan.notes)
    assert set(result.plan.notes) <= set(result.report.notes)
    assert result.report.validation.worst_sqnr_db > 5
    again = onnxmpq.apply(proto, tmp_path / "m.plan.json")
    assert serialize(again) == path.read_bytes()
    roomy = onnxmpq.convert(proto, latency="60%", target="bismo-edge", calibration=samples_for(proto, 16), effort=QUICK)
    assert roomy.report.validation.worst_sqnr_db > result.report.validation.worst_sqnr_db


def test_a_second_conversion_finds_everything_and_gives_the_same_bytes(tmp_path: Path) -> None:
    case = Case("residual network", residual_cnn(), 4, samples=24)
    fresh, first, second = (
        convert(case, tmp_path, without=(), cache=cache) for cache in (False, tmp_path / "cache", tmp_path / "cache")
    )
    assert serialize(first.model) == serialize(fresh.model)
    assert serialize(second.model) == serialize(fresh.model)
    assert second.plan.to_json() == fresh.plan.to_json()
    assert fresh.report.reused == {}
    assert {what for what, (found, _) in first.report.reused.items() if not found} == set(first.report.reused)
    assert set(second.report.reused) == {"activation ranges", "rounded weights", "effects", "second rounding"}
    assert all(found == total for found, total in second.report.reused.values())


def test_another_budget_finds_all_but_the_second_rounding(tmp_path: Path) -> None:
    case = Case("residual network", residual_cnn(), 4, samples=24)
    notes = Notes()
    convert(case, tmp_path, without=(), cache=tmp_path / "cache")
    second = convert(case, tmp_path, without=(), cache=tmp_path / "cache", latency="80%", progress=notes)
    found, total = second.report.reused["effects"]
    assert found == total > 8
    assert f"effects: {found} of {total} from the cache" in notes.said
    assert second.report.reused["second rounding"] == (0, 1)


def test_ranges_from_a_calibration_are_those_of_the_conversion_itself(tmp_path: Path) -> None:
    case = CASES[0]
    found = onnxmpq.calibrate(case.proto, calibration=samples_for(case.proto, case.samples))
    found.write(tmp_path / "ranges.npz")
    notes = Notes()
    unscaled = {"without": (*FAST, "equalisation", "smoothquant")}  # ranges of rescaled tensors would be others
    again = convert(case, tmp_path, ranges=tmp_path / "ranges.npz", progress=notes, **unscaled)
    assert serialize(again.model) == serialize(convert(case, tmp_path, **unscaled).model)
    assert any("activation ranges as calibrated before, on 12 samples" in line for line in notes.said)


def test_ranges_without_samples(tmp_path: Path) -> None:
    """Effects are measured on made-up inputs, as without ranges; the ranges are those of the real samples."""
    case = CASES[0]
    calibration = {"x": 50 * samples_for(case.proto, 16)["x"]}
    found = onnxmpq.calibrate(case.proto, calibration=calibration)
    notes = Notes()
    table = int8_pays(case.proto, tmp_path)
    result = onnxmpq.convert(
        case.proto, ranges=found, cost_table=table, samples=8, effort=QUICK, without=FAST, progress=notes
    )
    assert notes.warnings and result.report.synthetic
    for tensor, params in result.plan.activations.items():
        assert params in [row[tensor] for row in found.params().values()]


@pytest.mark.parametrize("cpu", ["any", "avx2", "vnni", "arm64", "this"])
def test_where_int8_is_exact_is_said(cpu: str, tmp_path: Path) -> None:
    """The graph decides, not the option; and the rule of `check` does not say the same once more."""
    result = convert(CASES[0], tmp_path, deploy_cpu=cpu)
    saturating = [f.node for f in lint(result.model, "onnxruntime") if f.rule == "overflow"]
    may_saturate = DeployCpu(result.plan.deploy_cpu).may_saturate
    assert result.report.proven == (not saturating or not may_saturate)
    advised = "may be wrong on the deployment CPU" in verdict_lines(result.report)[-1][0]
    assert advised == (not result.report.proven)
    words = "exact on" if result.report.proven else "NOT proven exact on"
    assert result.plan.exactness.startswith(f"int8 arithmetic: {words} ")
    assert not any(w.startswith("rule overflow") for w in result.report.warnings)
    assert result.plan.deploy_cpu == (this_cpu() if cpu == "this" else cpu)
    assert serialize(onnxmpq.apply(CASES[0].proto, result.plan)) == serialize(result.model)


def test_a_target_that_is_no_cpu_has_no_deployment_cpu() -> None:
    proto, options = CASES[0].proto, {"target": "bitfusion-edge", "latency": "fastest", "without": FAST}
    result = onnxmpq.convert(proto, calibration=samples_for(proto, 16), effort=QUICK, **options)  # type: ignore[arg-type]
    assert result.plan.deploy_cpu == "none" and result.plan.exactness == ""
    assert not any(w.format.endswith("saturation_free") for w in result.plan.weights.values())
    assert serialize(onnxmpq.apply(proto, result.plan)) == serialize(result.model)


@pytest.mark.parametrize("saturates", [True, False])
def test_quality_is_that_of_the_deployment_cpu(
    saturates: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sessions that judge ask for exact integers where this machine has none for the weights; those timed never do."""
    judging: set[bool] = set()
    timing: set[bool] = set()
    of, timed = Reference.of, ship.time_side_by_side

    def judged(original: object, feeds: Feeds, settings: SessionSettings) -> Reference:
        judging.add(settings.exact_integers)
        return of(original, feeds, settings)

    def side_by_side(
        original: object, result: object, feeds: Feeds, settings: SessionSettings, *rest: Any, **named: Any
    ) -> Timing:
        timing.add(settings.exact_integers)
        return timed(original, result, feeds, settings, *rest, **named)

    monkeypatch.setattr(probes, "saturates", lambda: saturates)
    monkeypatch.setattr(Reference, "of", judged)
    monkeypatch.setattr(ship, "time_side_by_side", side_by_side)
    convert(CASES[0], tmp_path, deploy_cpu="vnni")
    assert (judging, timing) == ({saturates}, {False})
    judging.clear()
    convert(CASES[0], tmp_path, deploy_cpu="any")
    assert (judging, timing) == ({False}, {False})


def test_latency_of_another_cpu_than_the_deployment_cpu_is_marked() -> None:
    proto = fixed_batch()
    options = {"calibration": samples_for(proto, 16), "size": "smallest", "effort": QUICK, "without": FAST}
    others = [cpu for cpu in DeployCpu if foreign(cpu)]
    marked, plain = (
        onnxmpq.convert(proto, **options, deploy_cpu=cpu)  # type: ignore[arg-type]
        for cpu in (others[0].value, "any")
    )
    [note] = [n for n in marked.plan.notes if "latency measured on this machine" in n]
    assert f"{describe_runtime()['cpu_features']}), which is not the deployment CPU ({others[0]})" in note
    assert note in marked.report.notes
    assert not any("deployment CPU" in n for n in plain.plan.notes)
