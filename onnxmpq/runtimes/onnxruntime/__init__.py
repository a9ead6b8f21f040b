"""onnxruntime: the processor it computes on, the versions that are supported, and what it does with small graphs."""
