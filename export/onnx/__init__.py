"""The network as an ONNX graph (extras ``train`` and ``onnx``): graph.py makes one file, folder.py what engines open, verify.py
compares an export with torch."""

try:
    import torch  # noqa: F401
except ImportError as e:
    from ...errors import MissingExtraError

    raise MissingExtraError.for_extra("train", "exporting a model", e.name) from e

from .folder import export_folder
from .graph import OPSET, example_inputs, export_onnx

__all__ = ["OPSET", "example_inputs", "export_folder", "export_onnx"]
