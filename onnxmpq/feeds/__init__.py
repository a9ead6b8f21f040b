"""Calibration data: from files, Python objects or nothing at all to arrays that fit the model's inputs.

`load_feeds` is the entry. This room knows no model and no runtime: it works from the declared inputs alone.
"""

from onnxmpq.feeds.labels import read_labels
from onnxmpq.feeds.load import load_feeds
from onnxmpq.feeds.overrides import divisor, numbers, override, parse_fields
from onnxmpq.feeds.python_source import import_source
from onnxmpq.feeds.recipes import ImageRecipe, Recipe, available_recipes, find_recipe, recipe_fields
from onnxmpq.feeds.synthetic import synthesize
from onnxmpq.feeds.timed import Share, Timed, in_words, parse_shapes, shares_of, timed_samples
from onnxmpq.feeds.types import Array, Feeds, InputSpec

__all__ = [
    "Array",
    "Feeds",
    "ImageRecipe",
    "InputSpec",
    "Recipe",
    "Share",
    "Timed",
    "available_recipes",
    "divisor",
    "find_recipe",
    "import_source",
    "in_words",
    "load_feeds",
    "numbers",
    "override",
    "parse_fields",
    "parse_shapes",
    "read_labels",
    "recipe_fields",
    "shares_of",
    "synthesize",
    "timed_samples",
]
