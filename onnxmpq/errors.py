"""Errors meant for the user: what is wrong, where, and what to do; each family with an exit code of its own.

`exit_code` values are part of the command line's interface: they are listed by `onnxmpq --help` and never reused.
"""

from __future__ import annotations

import unicodedata


class OnnxmpqError(Exception):
    """Base of every error that is reported to the user in one line, without a traceback."""

    exit_code = 1
    meaning = "something went wrong"
    answered = False  # True where the command has printed its JSON document with this error in it

    def __str__(self) -> str:
        return printable(super().__str__())


class UsageError(OnnxmpqError):
    """An option or argument that cannot be understood (click uses the same code for its own)."""

    exit_code = 2
    meaning = "an option, argument or budget cannot be understood"


class ModelError(OnnxmpqError):
    """The input file is no ONNX model, is truncated, misses external data, or cannot be run.

    blamed: names in the runtime's message that may be nodes.
    """

    exit_code = 3
    meaning = "the model cannot be read or run"

    def __init__(self, message: str = "", blamed: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.blamed = blamed


class CrashError(ModelError):
    """A model ended the runtime's process, or a run of it never came back.

    by_model: False where something from outside killed the process. hung: it took too long.
    """

    def __init__(self, message: str, *, by_model: bool = True, hung: bool = False) -> None:
        super().__init__(message)
        self.by_model, self.hung = by_model, hung

    @property
    def searchable(self) -> bool:
        """True if trying parts of the model may tell which of them is the cause, and soon."""
        return self.by_model and not self.hung


class DamagedGraphError(ModelError):
    """A graph of ours that is not whole, or breaks a rule of its dialect. region: where, "" where that is unknown."""

    def __init__(self, message: str, region: str = "") -> None:
        super().__init__(message)
        self.region = region

    def __reduce__(self) -> tuple[type[DamagedGraphError], tuple[str, str]]:
        return type(self), (str(self), self.region)


class CalibrationError(OnnxmpqError):
    """Calibration data that does not fit the model: names, shapes, dtypes, NaN/Inf, nothing at all."""

    exit_code = 4
    meaning = "the calibration data cannot be used"


class BudgetError(OnnxmpqError):
    """A budget that cannot be met; the message says the best that can be reached."""

    exit_code = 5
    meaning = "a budget cannot be met"


class NothingToQuantizeError(OnnxmpqError):
    """No layer of the model has any scheme but fp32 on the target."""

    exit_code = 6
    meaning = "the model has no layer that can be quantized"


class OutputError(OnnxmpqError):
    """The output, or a temporary file on the way to it, cannot be written."""

    exit_code = 7
    meaning = "the output or a temporary file cannot be written"


class TargetError(OnnxmpqError):
    """An unknown or malformed target description, cost table or execution provider."""

    exit_code = 8
    meaning = "the target, its cost table or its execution provider cannot be used"


class PlanError(OnnxmpqError):
    """A plan file that does not fit the model or the schema."""

    exit_code = 9
    meaning = "the plan file cannot be used"


class NothingFasterError(OnnxmpqError):
    """No plan beats the original where a faster model was asked for."""

    exit_code = 10
    meaning = "no conversion is faster than the original, so nothing was written"


class ValidationError(OnnxmpqError):
    """The two models compared by `validate` have different inputs or outputs, or one does not run."""

    exit_code = 11
    meaning = "the models cannot be compared"


class QualityError(OnnxmpqError):
    """The best plan within the budgets ruins the model, by held-out samples."""

    exit_code = 13
    meaning = "the result would be bad, so nothing was written"


class AlreadyMetError(OnnxmpqError):
    """The original is within every budget, so there is nothing to convert for."""

    exit_code = 14
    meaning = "the original already meets the budgets, so nothing was written"


class GateError(OnnxmpqError):
    """A converted model that `validate` refuses: it misses a floor or a limit, or is bad and no floor is given."""

    exit_code = 15
    meaning = "validate: the converted model misses a floor or a limit, or is bad and no floor is given"


class CheckError(OnnxmpqError):
    """A graph that breaks rules of the dialect it was checked against."""

    exit_code = 12
    meaning = "check found errors"


class ClusterError(OnnxmpqError):
    """A scheduler or worker that cannot be used, or a task that failed on all workers that tried it."""

    exit_code = 16
    meaning = "the cluster, or a worker of it, cannot be used"


class LostError(ClusterError):
    """The scheduler is gone, and with it all who did the work."""


class FleetError(OnnxmpqError):
    """Models of a fleet that were not converted; the others were."""

    exit_code = 17
    meaning = "convert-many: some models were not converted"


class CompilerError(OnnxmpqError):
    """The target's compiler is not installed, or refuses a model that was to be handed out."""

    exit_code = 18
    meaning = "the target's compiler is missing, or refuses the converted model"


_UNSHOWN = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})
INTERRUPTED_EXIT_CODE = 130
UNREAD_EXIT_CODE = 141  # 128 + SIGPIPE, as shells give it for programs that the signal ends
TERMINATED_EXIT_CODE = 143  # 128 + SIGTERM


def exit_codes() -> list[tuple[int, str]]:
    """(code, meaning) of every documented exit code, ascending."""
    families: list[type[OnnxmpqError]] = [OnnxmpqError, *OnnxmpqError.__subclasses__()]
    codes = sorted((family.exit_code, family.meaning) for family in families)
    ended = [
        (INTERRUPTED_EXIT_CODE, "interrupted (Ctrl-C)"),
        (UNREAD_EXIT_CODE, "nobody reads the output any more"),
        (TERMINATED_EXIT_CODE, "terminated (SIGTERM)"),
    ]
    return [(0, "success"), *codes, *ended]


def printable(text: str) -> str:
    """The text in one line. Names come from files: line ends and what steers a terminal are shown as escapes."""
    if text.isprintable():
        return text
    return "".join(c.encode("unicode_escape").decode() if unicodedata.category(c) in _UNSHOWN else c for c in text)
