"""The processor's features, from what systems print of them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from onnxmpq.runtimes.onnxruntime import cpu

X86 = """processor\t: 0
model name\t: AMD EPYC 7763
flags\t\t: fpu vme avx avx2 fma sse4_1 bmi2
"""
ARM = """processor\t: 0
BogoMIPS\t: 50.00
Features\t: fp asimd evtstrm aes asimddp bf16 i8mm
"""


@pytest.fixture(autouse=True)
def forget() -> Iterator[None]:
    cpu.cpu_features.cache_clear()
    yield
    cpu.cpu_features.cache_clear()


@pytest.mark.parametrize(
    ("text", "machine", "features"),
    [
        (X86, "x86_64", ("x86_64", "avx", "avx2", "fma", "sse4_1")),
        (ARM, "aarch64", ("aarch64", "asimd", "asimddp", "bf16", "i8mm")),
        ("", "AMD64", ("amd64",)),
    ],
    ids=["x86 without VNNI", "Arm", "a system that does not tell"],
)
def test_features(text: str, machine: str, features: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu, "_cpuinfo", text.splitlines)
    monkeypatch.setattr(cpu.platform, "machine", lambda: machine)
    monkeypatch.setattr(cpu.platform, "system", lambda: "Linux")
    assert cpu.cpu_features() == features


def test_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu, "_cpuinfo", X86.splitlines)
    assert cpu.cpu_model() == "AMD EPYC 7763"
    monkeypatch.setattr(cpu, "_cpuinfo", list)
    assert cpu.cpu_model()
