"""`python -m onnxmpq`, and the `onnxmpq` command: nothing heavy is imported before Ctrl-C has an answer."""

from __future__ import annotations

import sys

from onnxmpq.errors import INTERRUPTED_EXIT_CODE


def main() -> None:
    """The command line; Ctrl-C while it is still being imported ends as quietly as later."""
    try:
        from onnxmpq.cli import main as run  # noqa: PLC0415 (the import is what may be interrupted)
    except KeyboardInterrupt:
        print("onnxmpq: interrupted; nothing was written", file=sys.stderr)
        raise SystemExit(INTERRUPTED_EXIT_CODE) from None
    run()


if __name__ == "__main__":
    main()
