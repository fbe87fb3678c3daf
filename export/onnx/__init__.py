"""The network as an ONNX graph (extras ``train`` and ``onnx``): graph.py makes one file, folder.py what engines open, verify.py
compares an export with torch."""

from .folder import export_folder
from .graph import OPSET, example_inputs, export_onnx

__all__ = ["OPSET", "example_inputs", "export_folder", "export_onnx"]
