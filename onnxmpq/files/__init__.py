"""Reading and writing files: TOML and JSON, arrays, rows, folders; atomic, bounded, checked beforehand."""

from onnxmpq.files.archive import Archive, Array, read_array_header, require_plausible
from onnxmpq.files.documents import dump_json, parse_json, parse_toml, plain, read_text, read_toml
from onnxmpq.files.fields import Fields, as_path, is_number, is_path, is_whole, nearest, nearest_names, shown
from onnxmpq.files.output import (
    check_writable,
    plan_path,
    require_report_format,
    serialize,
    weights_path,
    write_bytes,
    write_model,
    write_result,
    write_text,
)
from onnxmpq.files.resources import data_folder
from onnxmpq.files.rows import Rows, require_format
from onnxmpq.files.scratch import scratch_folder

__all__ = [
    "Archive",
    "Array",
    "Fields",
    "Rows",
    "as_path",
    "check_writable",
    "data_folder",
    "dump_json",
    "is_number",
    "is_path",
    "is_whole",
    "nearest",
    "nearest_names",
    "parse_json",
    "parse_toml",
    "plain",
    "plan_path",
    "read_array_header",
    "read_text",
    "read_toml",
    "require_format",
    "require_plausible",
    "require_report_format",
    "scratch_folder",
    "serialize",
    "shown",
    "weights_path",
    "write_bytes",
    "write_model",
    "write_result",
    "write_text",
]
