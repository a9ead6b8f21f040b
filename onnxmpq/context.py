"""The arguments that all steps of a conversion share."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from onnxmpq.cache import NO_CACHE, Cache
from onnxmpq.progress import Progress, Silent
from onnxmpq.runtimes import SessionSettings
from onnxmpq.tasks import Elsewhere, current
from onnxmpq.threads import workers


@dataclass(frozen=True)
class Context:
    """progress: is told of stages, remarks and warnings. cache: of values that depend on content alone.

    seed: for everything random. threads: runs side by side where time is not being measured; no result may depend on
    it. elsewhere: who does tasks, None for this machine's own processes and threads.
    """

    progress: Progress = field(default_factory=Progress)
    cache: Cache = NO_CACHE
    seed: int = 0
    threads: int = field(default_factory=workers)
    elsewhere: Elsewhere | None = field(default_factory=current)

    @property
    def silent(self) -> Context:
        """The same without progress and cache, for steps inside a step."""
        return replace(self, progress=Silent(), cache=NO_CACHE)

    def quality_settings(self, *, exact_integers: bool) -> SessionSettings:
        """Settings of sessions that measure the quality of quantized models, and nothing else."""
        return SessionSettings(threads=self.threads, exact_integers=exact_integers)
