"""Time left of a run, from estimates for its stages, corrected by what the finished ones took."""

from __future__ import annotations

from collections.abc import Mapping


class Outlook:
    """Stages that are still to come, in seconds that were estimated for them; empty until they are known."""

    def __init__(self) -> None:
        self._expected: dict[str, float] = {}
        self._estimated_s = self._taken_s = 0.0

    def expect(self, seconds: Mapping[str, float]) -> None:
        """Estimates by stage, in place of earlier ones."""
        self._expected = dict(seconds)

    @property
    def known(self) -> bool:
        return bool(self._expected)

    def stage_s(self, stage: str) -> float | None:
        """Expected seconds of a stage; None where nothing is known of it."""
        estimate = self._expected.get(stage)
        return None if estimate is None else estimate * self._correction

    def began(self, stage: str) -> None:
        """A stage runs, so those that were expected before it are over, or did not have to run."""
        if stage in self._expected:
            names = list(self._expected)
            self._expected = {name: self._expected[name] for name in names[names.index(stage) :]}

    def ended(self, stage: str, taken_s: float) -> None:
        """A stage is over. One that was not expected corrects nothing."""
        estimate = self._expected.pop(stage, None)
        if estimate is not None:
            self._estimated_s += estimate
            self._taken_s += taken_s

    def left_s(self, stage: str = "", stage_left_s: float | None = None) -> float:
        """Seconds until all stages are over. stage: the one that runs; stage_left_s: what is left of it, if known."""
        others = sum(seconds for name, seconds in self._expected.items() if name != stage) * self._correction
        return others + (stage_left_s if stage_left_s is not None else self.stage_s(stage) or 0.0)

    @property
    def _correction(self) -> float:
        """Seconds taken over seconds estimated, of the stages that are over."""
        return self._taken_s / self._estimated_s if self._estimated_s > 0 else 1.0
