"""A model without its weights: the graph as it is, statistics in the place of large constants, and the way back."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from onnxmpq.reproducer.statistics import Statistics

MOST_INTEGERS = 64  # in a constant that is kept: shapes, axes, indices
MOST_LISTED = 64  # numbers or words in an attribute that is kept
_KEPT_INTEGERS = (TensorProto.INT64, TensorProto.INT32, TensorProto.BOOL)
_SIZES = frozenset({"Resize", "Upsample"})  # their scales are few floats, and decide on shapes


def stripped(proto: onnx.ModelProto) -> tuple[onnx.ModelProto, dict[str, Statistics]]:
    """The model's structure, and statistics of what was taken out, by place.

    Kept are nodes, names, types, shapes, single numbers and small integer constants. Taken out are all other constants,
    descriptions and metadata.
    """
    stripper = _Stripper()
    made = onnx.ModelProto(ir_version=proto.ir_version)
    made.opset_import.extend(proto.opset_import)
    for function in proto.functions:
        copy = made.functions.add()
        copy.CopyFrom(function)
        copy.ClearField("doc_string")
        del copy.metadata_props[:], copy.node[:]
        copy.node.extend(stripper.node(n, f"{function.name}/") for n in function.node)
    stripper.graph(proto.graph, made.graph, "")
    return made, stripper.statistics


def filled(proto: onnx.ModelProto, statistics: Mapping[str, Statistics]) -> onnx.ModelProto:
    """The structure with random values of these statistics, the same for every call. Changes `proto`."""
    _Filler(statistics).graph(proto.graph, "")
    for function in proto.functions:
        for node in function.node:
            _Filler(statistics).node(node, f"{function.name}/")
    return proto


class _Stripper:
    def __init__(self) -> None:
        self.statistics: dict[str, Statistics] = {}

    def graph(self, old: onnx.GraphProto, made: onnx.GraphProto, place: str) -> None:
        made.name = old.name
        sizes = {t for n in old.node if n.op_type in _SIZES for t in n.input[1:]}
        made.node.extend(self.node(n, place, sizes) for n in old.node)
        made.initializer.extend(self.tensor(t, f"{place}{t.name}", t.name in sizes) for t in old.initializer)
        for sparse in old.sparse_initializer:
            made.sparse_initializer.add().CopyFrom(self.sparse(sparse, f"{place}{sparse.values.name}"))
        for new_infos, infos in ((made.input, old.input), (made.output, old.output), (made.value_info, old.value_info)):
            for info in infos:
                new_infos.add(name=info.name).type.CopyFrom(info.type)

    def node(self, old: onnx.NodeProto, place: str, sizes: Iterable[str] = ()) -> onnx.NodeProto:
        made = onnx.NodeProto()
        made.CopyFrom(old)
        made.ClearField("doc_string")
        del made.metadata_props[:], made.attribute[:]
        where = f"{place}{old.name or '/'.join(old.output)}/"
        keep = any(t in sizes for t in old.output)
        made.attribute.extend(self.attribute(a, f"{where}{a.name}", keep) for a in old.attribute)
        return made

    def attribute(self, old: onnx.AttributeProto, place: str, keep: bool) -> onnx.AttributeProto:
        made = onnx.AttributeProto(name=old.name, type=old.type, ref_attr_name=old.ref_attr_name)
        if not old.ref_attr_name:
            made.ClearField("ref_attr_name")
        for field, value in old.ListFields():
            if field.name == "t":
                made.t.CopyFrom(self.tensor(value, place, keep))
            elif field.name == "g":
                self.graph(value, made.g, f"{place}/")
            elif field.name == "graphs":
                for number, body in enumerate(value):
                    self.graph(body, made.graphs.add(), f"{place}/{number}/")
            elif field.name == "tensors":
                made.tensors.extend(self.tensor(t, f"{place}/{i}", keep) for i, t in enumerate(value))
            elif field.name == "sparse_tensor":
                made.sparse_tensor.CopyFrom(self.sparse(value, place))
            elif field.name in ("floats", "ints", "strings"):
                getattr(made, field.name).extend(self.listed(field.name, list(value), place))
            elif field.name in ("f", "i", "s", "tp"):
                made.MergeFrom(onnx.AttributeProto(**{field.name: value}))
        return made

    def listed(self, kind: str, values: list[Any], place: str) -> list[Any]:
        """Numbers of an attribute, or as many zeros; words, or numbered ones."""
        if len(values) <= MOST_LISTED:
            return values
        if kind == "strings":
            return [f"s{i}".encode() for i in range(len(values))]
        self.statistics[place] = Statistics.of(np.array(values))
        return [0] * len(values)

    def tensor(self, old: onnx.TensorProto, place: str, keep: bool) -> onnx.TensorProto:
        count = int(np.prod(old.dims, dtype=np.int64))
        small = count <= MOST_INTEGERS and (keep or old.data_type in _KEPT_INTEGERS)
        made = onnx.TensorProto(name=old.name, data_type=old.data_type, dims=old.dims)
        if (small or count <= 1) and old.data_type != TensorProto.STRING:
            made.CopyFrom(old)
            made.ClearField("doc_string")
            return made
        try:
            self.statistics[place] = Statistics.of(numpy_helper.to_array(old))
        except (ValueError, TypeError, OSError, onnx.checker.ValidationError):  # damaged, or not read from its file
            self.statistics[place] = Statistics("unreadable", tuple(old.dims))
        return made

    def sparse(self, old: onnx.SparseTensorProto, place: str) -> onnx.SparseTensorProto:
        made = onnx.SparseTensorProto(dims=old.dims)
        made.values.CopyFrom(self.tensor(old.values, place, False))
        made.indices.CopyFrom(old.indices)
        return made


class _Filler:
    def __init__(self, statistics: Mapping[str, Statistics]) -> None:
        self.statistics = statistics

    def graph(self, graph: onnx.GraphProto, place: str) -> None:
        for tensor in graph.initializer:
            self.tensor(tensor, f"{place}{tensor.name}")
        for sparse in graph.sparse_initializer:
            self.tensor(sparse.values, f"{place}{sparse.values.name}")
        for node in graph.node:
            self.node(node, place)

    def node(self, node: onnx.NodeProto, place: str) -> None:
        where = f"{place}{node.name or '/'.join(node.output)}/"
        for attribute in node.attribute:
            found = f"{where}{attribute.name}"
            if attribute.HasField("t"):
                self.tensor(attribute.t, found)
            if attribute.HasField("g"):
                self.graph(attribute.g, f"{found}/")
            if attribute.HasField("sparse_tensor"):
                self.tensor(attribute.sparse_tensor.values, found)
            for number, body in enumerate(attribute.graphs):
                self.graph(body, f"{found}/{number}/")
            for number, tensor in enumerate(attribute.tensors):
                self.tensor(tensor, f"{found}/{number}")
            if found in self.statistics and (attribute.floats or attribute.ints):
                self.listed(attribute, found)

    def listed(self, attribute: onnx.AttributeProto, place: str) -> None:
        values = self.values(place)
        if attribute.floats:
            attribute.floats[:] = values.astype(np.float32).tolist()
        else:
            attribute.ints[:] = np.rint(values).astype(np.int64).tolist()

    def tensor(self, tensor: onnx.TensorProto, place: str) -> None:
        if place not in self.statistics:
            return
        if tensor.data_type == TensorProto.STRING:
            tensor.string_data[:] = [f"s{i}".encode() for i in range(int(np.prod(tensor.dims)))]
            return
        values = self.values(place)
        dtype = helper.tensor_dtype_to_np_dtype(tensor.data_type)
        exact = tensor.data_type in (TensorProto.DOUBLE, TensorProto.FLOAT)
        whole = values if exact or _fractional(tensor.data_type) else np.rint(values)
        made = numpy_helper.from_array(whole.astype(np.float32 if not exact else dtype).astype(dtype), tensor.name)
        tensor.CopyFrom(made)

    def values(self, place: str) -> np.ndarray[Any, np.dtype[np.float64]]:
        return self.statistics[place].array(np.random.default_rng(zlib.crc32(place.encode())))


def _fractional(element: int) -> bool:
    name: str = TensorProto.DataType.Name(element)
    return "FLOAT" in name or name.startswith("COMPLEX")
