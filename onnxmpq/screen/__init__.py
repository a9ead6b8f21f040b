"""The terminal: log lines and bars on stderr, answers as text or JSON on stdout, errors, and habits of typing.

Nothing here is known to the library, which reports to a `Progress` and raises `OnnxmpqError`.
"""

from onnxmpq.screen.answers import answer, document, stdout
from onnxmpq.screen.failures import ended
from onnxmpq.screen.habits import Commands, as_meant
from onnxmpq.screen.reporter import reporter

__all__ = ["Commands", "answer", "as_meant", "document", "ended", "reporter", "stdout"]
