"""The stages of a conversion, one room each; `onnxmpq.pipeline` calls them in order."""
