"""onnxmpq: mixed-precision quantization of ONNX models to a measured budget."""

__version__ = "0.1.0"
