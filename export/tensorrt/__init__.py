"""TensorRT engines of an exported ONNX graph: library.py opens ``tensorrt`` or ``tensorrt_rtx``, build.py builds, cache.py keeps
what was built on this machine, in a folder of its owner alone; engines.py is all of it in one call.

Nothing here needs torch. The graphs come from export/onnx.
"""

from .engines import Built, build_engines, engine_for
from .library import Library, open_library

__all__ = ["Built", "Library", "build_engines", "engine_for", "open_library"]
