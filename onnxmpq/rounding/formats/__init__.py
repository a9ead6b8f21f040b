"""Weight formats, one class per file; `onnxmpq.rounding` exports them. docs/rounding.md says how to add one."""
