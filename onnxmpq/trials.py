"""Trying a model before it is measured or handed out: in the child, as it is measured and as most users open it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace

import onnx

from onnxmpq.errors import CrashError, ModelError
from onnxmpq.feeds import Array, Feeds
from onnxmpq.isolation import Kept, call
from onnxmpq.runtimes import REFERENCE, Runtime, SessionSettings, holds_fp8
from onnxmpq.threads import workers

OWN_THREADS = 0  # what a session has that is given no number of threads: one per core
MOST_TRIES = 12  # 12 halvings tell 4096 regions apart
Inputs = Sequence[Mapping[str, Array]]


def tried(
    proto: onnx.ModelProto,
    inputs: Inputs | Kept[Inputs],
    settings: SessionSettings,
    *,
    runtime: Runtime = REFERENCE,
    limit_s: float | None = None,
    where: Callable[..., None] = call,
) -> None:
    """Run a model on all these inputs with the session it is measured with, and with the threads of a default session.

    where: `isolation.call`, or `measuring.timed` for a model that is measured.
    Raises CrashError where that ends or hangs the runtime, ModelError where it refuses the model.
    """
    ways = both_ways(proto, settings)
    where(run_all, proto, inputs, ways, runtime, doing="trying a model", limit_s=limit_s)


def both_ways(proto: onnx.ModelProto, settings: SessionSettings) -> tuple[SessionSettings, ...]:
    """Settings to try a model with. fp8 runs here in emulation only, which is no user's session."""
    own = replace(settings, threads=OWN_THREADS)
    return (settings,) if holds_fp8(proto) or settings == own else (own, settings)


def other_threads(settings: SessionSettings) -> tuple[SessionSettings, ...]:
    """The same sessions with one thread and with a session's default, but for the number that these settings have.

    Empty where there is one core only, on which both are the same.
    """
    if workers() == 1:
        return ()
    return tuple(replace(settings, threads=n) for n in (1, OWN_THREADS) if n != settings.threads)


def run_all(
    proto: onnx.ModelProto, inputs: Inputs, ways: Iterable[SessionSettings], runtime: Runtime = REFERENCE
) -> None:
    """A session for each of the settings, one at a time, and a run of each of the inputs in it."""
    for settings in ways:
        session = runtime.open(proto, settings)
        for feeds in inputs:
            runtime.run(session, feeds)
        del session  # before the next one is opened


def single(feeds: Feeds) -> list[dict[str, Array]]:
    """All samples, one per run."""
    return list(feeds.batches(1))


def culprit(
    regions: Sequence[str], build: Callable[[Sequence[str]], onnx.ModelProto], run: Callable[[onnx.ModelProto], None]
) -> str | None:
    """The region that makes a plan crash, by bisection: the plan with the regions before it runs, with it no more.

    regions: all that the plan changes, in graph order; with all of them it crashes. build: a model with only these
    changed. run: raises CrashError where it crashes. Returns None where `MOST_TRIES` do not tell.
    """
    runs, crashes = 0, len(regions)
    for _ in range(MOST_TRIES):
        if crashes - runs <= 1:
            break
        middle = (runs + crashes) // 2
        if _crashes(run, build(regions[:middle])):
            crashes = middle
        else:
            runs = middle
    return regions[crashes - 1] if crashes - runs == 1 else None


def _crashes(run: Callable[[onnx.ModelProto], None], proto: onnx.ModelProto) -> bool:
    try:
        run(proto)
    except CrashError:
        return True
    except ModelError:  # refused, which is another matter
        return False
    return False
