"""The encoder as one ONNX file with an open batch, written from its jaxpr."""
