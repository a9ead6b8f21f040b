"""The request: every option of `convert`, declared once for Python, the command line, config files and the docs."""

from onnxmpq.request.command_line import given_options, with_options
from onnxmpq.request.config import read_config
from onnxmpq.request.options import Option, Source, options_of, takes
from onnxmpq.request.request import DEFAULT_SAMPLES, Request
from onnxmpq.request.table import option_table

__all__ = [
    "DEFAULT_SAMPLES",
    "Option",
    "Request",
    "Source",
    "given_options",
    "option_table",
    "options_of",
    "read_config",
    "takes",
    "with_options",
]
