"""ONNX graphs to sealed engine folders, and images to negation bundles. Never needs torch."""
