"""Decoders with a cache: which inputs and outputs hold it, and samples of both phases that the model itself makes.

A cache is what the model hands to its own next step. It is found by names and by the graph; no other room pairs cache
inputs with outputs.
"""

from onnxmpq.decoding.cache import CachePair, Decoder, find_decoder
from onnxmpq.decoding.load import load_samples, structure_of
from onnxmpq.decoding.stepped import cached_outputs

__all__ = [
    "CachePair",
    "Decoder",
    "cached_outputs",
    "find_decoder",
    "load_samples",
    "structure_of",
]
