"""A diffusers checkpoint to ONNX graphs. Runs on a workstation; needs torch."""
