"""The request: every option of `convert`, declared once for Python, the command line, config files and the docs."""

from onnxmpq.request.arguments import accepts
from onnxmpq.request.command_line import given_options, option_like, take_config, with_options
from onnxmpq.request.config import asks_for_json, options_from, read_config
from onnxmpq.request.gate import GateOptions
from onnxmpq.request.help import GroupedCommand
from onnxmpq.request.options import GROUPS, Group, Option, Source, documents, options_of, require_source, takes
from onnxmpq.request.parts import DEFAULT_SAMPLES, QualityOptions, SampleOptions
from onnxmpq.request.provenance import asked_for
from onnxmpq.request.request import Request
from onnxmpq.request.table import option_table
from onnxmpq.request.written import config_text, toml

__all__ = [
    "DEFAULT_SAMPLES",
    "GROUPS",
    "GateOptions",
    "Group",
    "GroupedCommand",
    "Option",
    "QualityOptions",
    "Request",
    "SampleOptions",
    "Source",
    "accepts",
    "asked_for",
    "asks_for_json",
    "config_text",
    "documents",
    "given_options",
    "option_like",
    "option_table",
    "options_from",
    "options_of",
    "read_config",
    "require_source",
    "take_config",
    "takes",
    "toml",
    "with_options",
]
