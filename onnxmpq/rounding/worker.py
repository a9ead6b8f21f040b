"""A process that rounds layers: `LayerToRound` on standard input, results on standard output, pickled, until the end.

What goes wrong here ends it; the caller then rounds the layer itself and meets the same error in its own place.
"""

from __future__ import annotations

import pickle
import signal
import sys

from threadpoolctl import threadpool_limits


def main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the caller, who ends this process
    with threadpool_limits(1, user_api="blas"):
        while True:
            try:
                layer = pickle.load(sys.stdin.buffer)
            except EOFError:
                return
            pickle.dump(layer.rounded(), sys.stdout.buffer, pickle.HIGHEST_PROTOCOL)
            sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()
