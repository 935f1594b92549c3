"""Run in optimum's own environment (requirements/optimum.txt): a checkpoint to optimum's ONNX folder.

usage: python optimum_export.py CHECKPOINT OUT
"""

import sys

from optimum.exporters.onnx import main_export

if __name__ == "__main__":
    main_export(sys.argv[1], sys.argv[2], task="text-to-image", device="cpu", do_validation=False)
