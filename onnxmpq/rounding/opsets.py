"""First ONNX opsets that have the types and operators of quantized weights."""

PER_CHANNEL = 13
"""DequantizeLinear with `axis`; bfloat16 in Cast."""
FP8 = 19
"""float8 tensors in QuantizeLinear and DequantizeLinear."""
INT4 = 21
"""int4 tensors, and DequantizeLinear with `block_size`."""
