"""Options that mean nothing, or do not go together."""

from __future__ import annotations

from onnxmpq.runtimes import CPU
from tests.cli.refused.case import Bad

REFUSED = [
    Bad(
        "check: unknown dialect", lambda f: ("check", f.model, "--dialect", "tf"), 2, "use one of tensorrt, onnxruntime"
    ),
    Bad("check: a recipe alone", lambda f: (*f.int8("check"), "--recipe", "cifar10"), 2, "give --calib too"),
    Bad(
        "check: counts for TensorRT",
        lambda f: (*f.int8("check"), "--dialect", "tensorrt", "--calib", f.calib),
        2,
        "in onnxruntime's kernels, not in dialect tensorrt",
    ),
    Bad("no such function", lambda f: f.python("other = 1"), 2, "cannot be imported"),
    Bad("unknown estimator", lambda f: f.convert("--estimator", "max"), 2, "did you mean minmax?"),
    Bad(
        "unknown CPU",
        lambda f: f.convert("--deploy-cpu", "avx3"),
        2,
        "did you mean avx2?",
    ),
    Bad(
        "a CPU for what is none",
        lambda f: f.convert("--deploy-cpu", "vnni", "--target", "edge-npu"),
        2,
        "target 'edge-npu' is none of these CPUs; leave the option out",
    ),
    Bad("budget without a unit", lambda f: f.convert("--latency", "5"), 2, "--latency '5': no number with a unit"),
    Bad("budget of another kind", lambda f: f.convert("--size", "5ms"), 2, "--size '5ms': unknown unit 'ms'"),
    Bad("a factor for a share", lambda f: f.convert("--latency", "2x"), 2, "2 times less is 50%"),
    Bad("two outputs", lambda f: f.convert(f / "a.onnx", "-o", f / "b.onnx"), 2, "give one of them"),
    Bad("a model for a command", lambda f: (f.model, "--size", "30%"), 2, "model.onnx --size 30%`"),
    Bad("an unknown option", lambda f: f.convert("--latencyy", "5ms"), 2, "did you mean --latency?; see `onnxmpq conv"),
    Bad("nothing to convert", lambda f: ("convert",), 2, "missing argument 'MODEL'; see `onnxmpq convert --help`"),
    Bad("report of no format", lambda f: f.convert("--report", f / "report.pdf"), 2, "suffix decides the format"),
    Bad("provider of a model", lambda f: f.convert("--target", "edge-npu", "--provider", CPU), 2, "nothing runs there"),
    Bad("a shape of no input", lambda f: f.convert("--shape", "z=1x3"), 2, "--shape z: no such input"),
    Bad("a shape that cannot be", lambda f: f.convert("--shape", "x=1x4x16x16"), 2, "the model declares Nx3x16x16"),
    Bad("cache and none", lambda f: f.convert("--cache", f / "c", "--no-cache"), 2, "exclude each other"),
    Bad("exclusion that matches nothing", lambda f: f.convert("--exclude", "conv*"), 2, "matches no node"),
    Bad("unknown kind of output", lambda f: f.convert("--output-kind", "y=class"), 2, "NAME=KIND"),
    Bad("kind of no output", lambda f: f.convert("--output-kind", "z=logits"), 2, "'z'"),
    Bad("unknown technique", lambda f: f.convert("--without", "magic"), 2, "magic"),
    Bad(
        "validate: fastest",
        lambda f: ("validate", f.model, f.model, "--latency", "fastest"),
        2,
        "compares with a limit",
    ),
    Bad(
        "validate: labels missing",
        lambda f: ("validate", f.model, f.model, "--calib", f.calib, "--max-drop", "1%"),
        2,
        "--max-drop needs labels",
    ),
    Bad(
        "validate: kind of no output",
        lambda f: ("validate", f.model, f.model, "--calib", f.calib, "--output-kind", "z=logits", "-q"),
        2,
        "'z' is no output of the model",
    ),
    Bad("a scale of nothing", lambda f: f.convert("--scale", "0"), 2, "--scale '0'"),
    Bad("a mean of words", lambda f: f.convert("--mean", "a,b"), 2, "--mean 'a,b'"),
]
