"""Calibration data: from files, Python objects or nothing at all to arrays that fit the model's inputs.

`load_feeds` is the entry. This room knows no model and no runtime: it works from the declared inputs alone.
"""

from onnxmpq.feeds.labels import read_labels
from onnxmpq.feeds.load import load_feeds
from onnxmpq.feeds.overrides import divisor, numbers, override, parse_fields
from onnxmpq.feeds.python_source import import_source
from onnxmpq.feeds.recipes import DecoderRecipe, ImageRecipe, Recipe, available_recipes, find_recipe, recipe_fields
from onnxmpq.feeds.synthetic import synthesize
from onnxmpq.feeds.text import tokenizer_places
from onnxmpq.feeds.timed import (
    TIMED,
    Share,
    Timed,
    at_step,
    in_words,
    parse_shapes,
    shares_of,
    timed_note,
    timed_samples,
)
from onnxmpq.feeds.tokens import Tokens, read_tokens
from onnxmpq.feeds.types import STEPS, Array, Feeds, InputSpec, Step, TokenRun, with_batch_axes

__all__ = [
    "STEPS",
    "TIMED",
    "Array",
    "DecoderRecipe",
    "Feeds",
    "ImageRecipe",
    "InputSpec",
    "Recipe",
    "Share",
    "Step",
    "Timed",
    "TokenRun",
    "Tokens",
    "at_step",
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
    "read_tokens",
    "recipe_fields",
    "shares_of",
    "synthesize",
    "timed_note",
    "timed_samples",
    "tokenizer_places",
    "with_batch_axes",
]
