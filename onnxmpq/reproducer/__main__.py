"""`python -m onnxmpq.reproducer FILE.zip -o model.onnx`: the model of a reproducer, with random weights."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from onnxmpq.errors import OnnxmpqError
from onnxmpq.files import write_model
from onnxmpq.reproducer.rebuild import rebuild


def main() -> None:
    """One line and an exit code for every failure, as the other commands have."""
    parser = argparse.ArgumentParser("python -m onnxmpq.reproducer", description=__doc__)
    parser.add_argument("file", type=Path, help="the .zip that an internal error saved")
    parser.add_argument("-o", "--output", type=Path, required=True, help="model to write")
    given = parser.parse_args()
    try:
        write_model(given.output, rebuild(given.file))
    except OnnxmpqError as error:
        print(f"onnxmpq: error: {error}", file=sys.stderr)
        raise SystemExit(error.exit_code) from None


if __name__ == "__main__":
    main()
