#!/usr/bin/env bash
# tools/cpp-tests.sh PRESET: builds the C++ tests of one CMake preset and runs them with ctest.
set -euo pipefail
cd "$(dirname "$0")/.."
preset=$1
options=()
# Here the tests are wanted alone; the extension module is what `pip install` builds.
[ "$preset" = release ] && options=(-DGAITCRAFTER_PYTHON=OFF -DGAITCRAFTER_DEV_TREE=OFF)
cmake --preset "$preset" -B "build/test-$preset" "${options[@]}" >/dev/null
cmake --build "build/test-$preset" -j "$(nproc)" >/dev/null
ctest --test-dir "build/test-$preset" --output-on-failure -j "$(nproc)"
