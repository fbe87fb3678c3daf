#!/usr/bin/env bash
# tools/cpp-tests.sh PRESET [PYTHON]: builds the C++ tests of one CMake preset and runs them with ctest. The release preset also
# builds the module through which the Python tests reach single ops, for the interpreter PYTHON.
set -euo pipefail
cd "$(dirname "$0")/.."
preset=$1
options=()
# The source tree stays as it is: what the Python tests import is what `pip install` built.
[ "$preset" = release ] && options=(-DGAITCRAFTER_DEV_TREE=OFF "-DPython_EXECUTABLE=$PWD/$2")
cmake --preset "$preset" -B "build/test-$preset" "${options[@]}" >/dev/null
cmake --build "build/test-$preset" -j "$(nproc)" >/dev/null
ctest --test-dir "build/test-$preset" --output-on-failure -j "$(nproc)"
