"""TensorRT-RTX asked about graphs: `python -m benchmarks.tensorrt PART`, for docs/tensorrt.md."""
