"""Many models in one go: a fleet file or a folder, one conversion an entry, one table and one report of all."""

from onnxmpq.fleet.entries import JSON, PAGE, Entry, entries_of
from onnxmpq.fleet.results import Converted, Fleet
from onnxmpq.fleet.run import convert_many

__all__ = ["JSON", "PAGE", "Converted", "Entry", "Fleet", "convert_many", "entries_of"]
