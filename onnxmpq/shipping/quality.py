"""Verdicts on the quality of models, and the tests that the loop is given for its plans."""

from __future__ import annotations

from collections.abc import Callable

import onnx

from onnxmpq.errors import ModelError
from onnxmpq.quality import Level, Validation, Verdict, judge
from onnxmpq.shipping.job import Job


class Quality:
    """Quality against what the user asked for. Int8 everywhere is measured once per set of samples."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self._int8: dict[bool, Validation | None] = {}  # by whether the samples are held-out ones

    def worse_than(self, level: Level) -> Callable[[Validation], list[str]]:
        """Reasons for which a quality is worse than this level."""
        allowed = {"good": ("good", "unknown"), "noticeable": ("good", "noticeable", "unknown")}[level]

        def unmet(quality: Validation) -> list[str]:
            verdict = self.verdict(quality)
            return [] if verdict.level in allowed else list(verdict.reasons)

        return unmet

    def verdict(self, quality: Validation) -> Verdict:
        """`fastest` is held to what int8 everywhere would lose."""
        int8 = self.int8_everywhere(quality) if self.job.budgets.fastest else None
        return judge(quality, int8=int8, synthetic=self.job.data.calibration.synthetic)

    def on_calibration(self, unmet: Callable[[Validation], list[str]]) -> Callable[[onnx.ModelProto], list[str]]:
        quality_of, feeds = self.job.quality_of, self.job.data.calibration
        return lambda proto: unmet(quality_of(proto, feeds, False, unfused=False))

    def int8_everywhere(self, quality: Validation) -> Validation | None:
        """Quality of int8 everywhere on the same samples; None where no layer offers it or it does not run."""
        job, held_out = self.job, bool(quality.held_out)
        if not job.int8 or quality.emulated:
            return None
        if held_out not in self._int8:
            feeds = job.data.validation if held_out or not job.data.held_out else job.data.calibration
            try:
                self._int8[held_out] = job.quality_of(job.bench.build(job.int8), feeds, held_out, unfused=False)
            except ModelError as error:
                self.job.context.progress.say(
                    f"int8 everywhere does not run here, nothing is compared with it: {error}"
                )
                self._int8[held_out] = None
        return self._int8[held_out]
