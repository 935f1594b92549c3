"""ONNX graphs: recorded, converted, compiled, and wrapped."""
