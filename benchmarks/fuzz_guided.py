"""`benchmarks.fuzz` with atheris, which goes on with those inputs that reach lines nothing reached before.

python -m benchmarks.fuzz_guided [TARGET ...] [--seconds 300] [--seed 0] [--keep folder]
"""

from __future__ import annotations

import atheris

with atheris.instrument_imports(include=["onnxmpq"]):
    from benchmarks import fuzz

if __name__ == "__main__":
    fuzz.main(guided=True)
