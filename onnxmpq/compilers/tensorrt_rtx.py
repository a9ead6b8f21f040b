"""TensorRT for RTX: parses and builds a graph ahead of time for a compute capability, on a machine without a GPU.

Ahead of time it shows what is accepted and how many bytes are stored. Kernels are chosen on the device, so that
nothing is said about them here.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import onnx

from onnxmpq.compilers.types import Answer, Message, Ranges, Severity
from onnxmpq.errors import CompilerError

TESTED = (1, 7)
"""The version with which docs/tensorrt.md was made: major and minor number."""
INSTALL = 'pip install "onnxmpq[tensorrt]"'
_INLINE_BYTES = 2**31 - 2**20  # protobuf serializes no more than 2 GB
_CAPABILITY = re.compile(r"SM\d+")
_WEIGHTS = re.compile(r"Total Weights Memory: (\d+) bytes")
_NO_GPU = re.compile(r"\n?\[[^\[\]]*\] Error Code 1: Cuda Runtime \(In catchCudaError .*?cudaError \d+: [^)]*\)\)")
_PLACE = re.compile(r"^\S+\.cpp:\d+: | In \w+ at /\S+?:\d+|\[[^\[\]]*: attachExceptionMsgToGraph\] ")
_NOISE = ("While parsing node number", "--- Begin node ---", "--- End node ---", "ERROR: ", "input: ")


class TensorRtRtx:
    """The package tensorrt-rtx."""

    name = "TensorRT-RTX"

    def version(self) -> str:
        return str(_library().__version__)

    def capabilities(self) -> tuple[str, ...]:
        names = sorted(n for n in dir(_library().ComputeCapability) if _CAPABILITY.fullmatch(n))
        return tuple(n.lower() for n in sorted(names, key=lambda n: int(n.removeprefix("SM"))))

    def build(self, proto: onnx.ModelProto, capability: str, ranges: Ranges) -> Answer:
        trt = _library()
        log = _log(trt)
        builder = trt.Builder(log)
        network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
        parser = trt.OnnxParser(network, log)
        if not _parse(parser, proto):
            refused = [_parser_error(parser.get_error(i), proto) for i in range(parser.num_errors)]
            return Answer((*_version_note(trt), *refused, *_lines(log.warnings, "warning")))
        config = builder.create_builder_config()
        config.num_compute_capabilities = 1
        config.set_compute_capability(getattr(trt.ComputeCapability, capability.upper()), 0)
        if ranges:
            config.add_optimization_profile(_profile(builder, ranges))
        engine = builder.build_serialized_network(network, config)
        warnings = (*_version_note(trt), *_lines(log.warnings, "warning"))
        if engine is None:
            errors = tuple(_lines(log.errors, "error"))
            return Answer((*(errors or (Message("error", "", "no engine was built, without a reason"),)), *warnings))
        return Answer((*_lines(log.errors, "warning"), *warnings), int(engine.nbytes), log.weight_bytes)


def _library() -> Any:
    """The package. Raises CompilerError where it is missing or of a version that cannot be used."""
    try:
        trt = import_module("tensorrt_rtx")
    except ImportError as error:
        missing = isinstance(error, ModuleNotFoundError) and (error.name or "").startswith("tensorrt_rtx")
        why = "is not installed" if missing else f"cannot be loaded ({error})"
        raise CompilerError(f"the package tensorrt-rtx {why}; install it with: {INSTALL}") from None
    version = _numbers(trt)
    if version[0] != TESTED[0] or version < TESTED:
        wanted = ".".join(map(str, TESTED))
        raise CompilerError(
            f"tensorrt-rtx {trt.__version__} is installed, and {wanted} or a later {TESTED[0]}.x is needed: {INSTALL}"
        )
    return trt


def _numbers(trt: Any) -> tuple[int, int]:
    major, minor = str(trt.__version__).split(".")[:2]
    return int(major), int(minor)


def _version_note(trt: Any) -> tuple[Message, ...]:
    if _numbers(trt) == TESTED:
        return ()
    tested = ".".join(map(str, TESTED))
    return (Message("warning", "", f"tensorrt-rtx {trt.__version__} is installed; onnxmpq was tried with {tested}"),)


def _log(trt: Any) -> Any:
    """A logger that keeps what it is told. Its base class is known only once the package is loaded."""

    class Log(trt.ILogger):  # type: ignore[misc, name-defined, unused-ignore]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.warnings: list[str] = []
            self.errors: list[str] = []
            self.weight_bytes: int | None = None

        def log(self, severity: Any, text: str) -> None:
            if severity.name == "WARNING":
                self.warnings.append(text)
            elif severity.name in ("ERROR", "INTERNAL_ERROR"):
                self.errors.append(text)
            elif found := _WEIGHTS.search(text):
                self.weight_bytes = int(found[1])

    return Log()


def _parse(parser: Any, proto: onnx.ModelProto) -> bool:
    if proto.ByteSize() < _INLINE_BYTES:
        return bool(parser.parse(proto.SerializeToString()))
    with tempfile.TemporaryDirectory(prefix="onnxmpq-") as folder:
        path = Path(folder, "model.onnx")
        onnx.save_model(proto, path, save_as_external_data=True, location="model.data")
        return bool(parser.parse_from_file(str(path)))


def _profile(builder: Any, ranges: Ranges) -> Any:
    profile = builder.create_optimization_profile()
    for name, shapes in ranges.items():
        profile.set_shape(name, shapes.least, shapes.typical, shapes.most)
    return profile


def _parser_error(error: Any, proto: onnx.ModelProto) -> Message:
    """An error of the parser, which names a node of the main graph or of a body by its name."""
    operator, text = str(error.node_operator()), _plain(str(error.desc()))
    if text in ("", "false"):
        text = f"{operator or 'the operator'} is not supported"
    return Message("error", str(error.node_name()), text)


def _lines(texts: Sequence[str], severity: Severity) -> Iterator[Message]:
    """Logged lines, each once, without the sources of the compiler and complaints that there is no GPU."""
    plain = dict.fromkeys(_plain(t) for t in texts)
    for text in plain:
        if text and not text.startswith(_NOISE):
            yield Message(severity, "", text)


def _plain(text: str) -> str:
    return " ".join(_PLACE.sub("", _NO_GPU.sub("", text)).split())
