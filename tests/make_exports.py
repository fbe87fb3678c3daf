"""Writes the ONNX exports of tests/fixtures/exports, for tests in languages and on machines without torch.

    python tests/make_exports.py [FOLDER]

tests/export/test_onnx_export.py compares a fresh export with the first of them.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from gaitcrafter_rt.export.onnx import export_folder

FIXTURES = Path(__file__).parent / "fixtures"
# Folder to (model, precision, batch): a graph for any batch; fixed ones of an eps-model, with the fp32 graph beside them.
EXPORTS = {
    "tiny-walker-fp32": ("tiny-walker", "fp32", None),
    "tiny-paper-fp16": ("tiny-paper", "fp16", 2),
    "tiny-paper-bf16": ("tiny-paper", "bf16", 2),
}


def main(folder: Path) -> None:
    for name, (model, precision, batch) in EXPORTS.items():
        shutil.rmtree(folder / name, ignore_errors=True)
        print(export_folder(FIXTURES / model, folder / name, precision, batch))


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else FIXTURES / "exports")
