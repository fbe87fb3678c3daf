"""The peer's int8: NNCF's post-training quantisation of the graph, on the calibration inputs that the engine's own int8 gets."""

from __future__ import annotations

from pathlib import Path

import numpy as np


def quantised_graph(folder: Path, form: str, batch: int) -> Path:
    """The quantised graph, made if it is not there; minutes, and more memory than running it."""
    path = folder / f"{form}-b{batch}-int8.xml"
    if path.exists():
        return path
    import nncf
    import openvino as ov

    with np.load(folder / "calibration.npz") as arrays:
        rows = {name: arrays[name] for name in arrays}
    count = len(rows["t"]) // batch
    feeds = [{name: value[k * batch : (k + 1) * batch] for name, value in rows.items()} for k in range(count)]
    graph = ov.Core().read_model(folder / f"{form}-b{batch}.onnx")
    # Mixed: activations asymmetric, which SiLU needs; the default preset is less accurate here at the same speed.
    quantised = nncf.quantize(graph, nncf.Dataset(feeds), preset=nncf.QuantizationPreset.MIXED, subset_size=count)
    ov.save_model(quantised, path.with_name("partial.xml"), compress_to_fp16=False)
    path.with_name("partial.bin").rename(path.with_suffix(".bin"))
    path.with_name("partial.xml").rename(path)
    return path
