"""The committed sample models load, are what `samples/README.md` says, and still know their digits."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

SAMPLES = Path(__file__).parent.parent / "samples"


@dataclass(frozen=True)
class Sample:
    """One shipped model and what is promised of it."""

    name: str
    opset: int
    accuracy: float
    operators: frozenset[str]

    @property
    def path(self) -> Path:
        return SAMPLES / self.name


CNN = Sample(
    "digits_cnn.onnx",
    opset=13,
    accuracy=0.975,
    operators=frozenset({"Conv", "BatchNormalization", "Relu", "Add", "MaxPool", "GlobalAveragePool", "Gemm"}),
)
TRANSFORMER = Sample(
    "digits_transformer.onnx",
    opset=17,
    accuracy=0.95,
    operators=frozenset({"Conv", "MatMul", "LayerNormalization", "Softmax", "Erf", "Gemm"}),
)
both = pytest.mark.parametrize("sample", [CNN, TRANSFORMER], ids=lambda sample: sample.name)


def images(part: str) -> np.ndarray:
    with np.load(SAMPLES / f"digits_{part}.npz") as arrays:
        assert arrays.files == ["image"]  # model inputs only, so that either file can calibrate
        return arrays["image"]


def logits(sample: Sample, batch: np.ndarray) -> np.ndarray:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(sample.path, options, providers=["CPUExecutionProvider"])
    return session.run(["logits"], {"image": batch})[0]


@both
def test_graph_is_what_the_readme_says(sample: Sample) -> None:
    model = onnx.load(sample.path)
    onnx.checker.check_model(model, full_check=True)
    assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", sample.opset)]
    assert sample.operators <= {node.op_type for node in model.graph.node}
    (image,) = model.graph.input
    assert image.type.tensor_type.shape.dim[0].dim_param == "N"


@both
def test_accuracy_on_the_test_part(sample: Sample) -> None:
    labels = np.load(SAMPLES / "digits_test_labels.npy")
    accuracy = float((logits(sample, images("test")).argmax(1) == labels).mean())
    assert accuracy >= sample.accuracy


@both
def test_batch_axis_is_dynamic(sample: Sample) -> None:
    batch = images("calib")[:3]
    one_by_one = np.concatenate([logits(sample, batch[i : i + 1]) for i in range(len(batch))])
    np.testing.assert_allclose(logits(sample, batch), one_by_one, atol=1e-4)


def test_inputs_have_one_shape_and_no_sample_in_common() -> None:
    calib, test = images("calib"), images("test")
    assert (calib.shape, test.shape) == ((128, 1, 32, 32), (400, 1, 32, 32))
    assert calib.dtype == test.dtype == np.float32
    assert {image.tobytes() for image in calib}.isdisjoint(image.tobytes() for image in test)


def test_models_stay_small() -> None:
    assert sum(path.stat().st_size for path in SAMPLES.glob("digits_*.onnx")) < 3_000_000
