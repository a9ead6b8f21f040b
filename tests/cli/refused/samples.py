"""Samples that do not fit, or that are none."""

from __future__ import annotations

import numpy as np

from tests.cli.folders import Folder
from tests.cli.refused.case import Bad
from tests.graphs import residual_cnn, samples_for

X = samples_for(residual_cnn(), 8)["x"]


def with_value(value: float) -> np.ndarray:
    copy = X.copy()
    copy[3, 1, 2, 5] = value
    return copy


CHANGING = """
import numpy

def feeds():
    for size in (3, 4):
        yield {"x": numpy.zeros((size - 2, 3, 16, 13 + size), "float32")}
"""


REFUSED = [
    Bad(
        "check: samples of another model",
        lambda f: (*f.int8("check"), "--calib", f.samples(other=X)[3]),
        4,
        "input 'x' of the model is missing (found 'other')",
    ),
    Bad("check: no such samples", lambda f: (*f.int8("check"), "--calib", f / "none.npz"), 4, "none.npz"),
    Bad("wrong names of arrays", lambda f: f.samples(image=X), 4, "input 'x' of the model is missing (found 'image')"),
    Bad("wrong shape of arrays", lambda f: f.samples(x=X[:, :2]), 4, "array 'x' has shape [8, 2, 16, 16]"),
    Bad("texts for numbers", lambda f: f.samples(x=np.full(X.shape, "a")), 4, "array 'x'"),
    Bad("NaN", lambda f: f.samples(x=with_value(np.nan)), 4, "holds 1 NaN"),
    Bad("infinity", lambda f: f.samples(x=with_value(np.inf)), 4, "index [3, 1, 2, 5]"),
    Bad("an empty folder", Folder.empty_folder, 4, "empty"),
    Bad("no such samples", lambda f: ("convert", f.model, "--calib", f / "none.npz", "--quiet"), 4, "none.npz"),
    Bad("no readable picture", lambda f: f.pictures("cifar10", b"x"), 4, "2 of 2 pictures could not be read"),
    Bad("grey recipe for colours", lambda f: f.pictures("mnist"), 4, "colour = grey makes 1 channel(s)"),
    Bad("pictures without a recipe", lambda f: f.pictures(None), 4, "needs a recipe"),
    Bad(
        "ids outside the table", Folder.foreign_ids, 4, "holds 8 in sample 2, but the model looks it up in a table of 8"
    ),
    Bad("a source that yields nothing", lambda f: f.python("feeds = []"), 4, "yields nothing"),
    Bad("shapes that change", lambda f: f.python(CHANGING), 4, "feed 1, input 'x' has shape [2, 3, 16, 17]"),
    Bad("a source that raises", lambda f: f.python("def feeds(): return 1 / 0"), 4, "raised ZeroDivisionError"),
    Bad("unknown recipe", lambda f: f.convert("--recipe", "imagnet"), 4, "imagnet"),
    Bad("ranges of another model", Folder.foreign_ranges, 4, "was made for model 'model' (sha256"),
    Bad("ranges that are none", lambda f: f.convert("--ranges", f.calib), 4, "not a file of `onnxmpq calibrate`"),
    Bad("no such ranges", lambda f: f.convert("--ranges", f / "no.npz"), 4, "give a file written by"),
    Bad(
        "convert: a floor on made-up samples",
        lambda f: ("convert", f.model, "--max-divergence", "1", "--samples", "8", "--quiet"),
        4,
        "--max-divergence: no quality is judged on made-up samples",
    ),
    Bad(
        "a floor on made-up samples",
        lambda f: ("validate", f.model, f.model, "--min-sqnr", "30dB"),
        4,
        "give real ones",
    ),
    Bad(
        "a recipe with a field that is none",
        lambda f: f.convert("--recipe", "imagenet", "--recipe-field", "means=1"),
        4,
        "recipe imagenet with means: field 'means' is unknown; did you mean mean?",
    ),
]
