#!/usr/bin/env bash
# tools/tensorrt-headers.sh [FOLDER]: headers of TensorRT 10.14 (Apache-2.0) into .sdks/tensorrt/include, once per machine, to check
# that the C++ backend compiles. No package of NVIDIA has them; kernel-lens carries NVIDIA's own files, unchanged. No library comes
# along: a machine with a GPU has TensorRT itself.
set -euo pipefail
cd "$(dirname "$0")/.."
target=${1:-.sdks/tensorrt}
python=${PYTHON:-python3}
sha256=07cc714e8b5e7f34b672f7c7fad93febe7c747be5837ba276b1527370134ffe0
if [ -e "$target/include/NvInferRuntime.h" ]; then
  exit 0
fi
mkdir -p "$(dirname "$target")"
work=$(mktemp -d "$(dirname "$target")/.new-XXXXXX")
trap 'rm -rf "$work"' EXIT
"$python" -m pip download -q --disable-pip-version-check --no-deps --only-binary :all: -d "$work" kernel-lens==2.0.1 2>/dev/null || {
  echo "pip download kernel-lens==2.0.1 failed: whether the C++ backend tensorrt compiles is not checked" >&2
  exit 1
}
wheel=$(echo "$work"/kernel_lens-2.0.1-*.whl)
echo "$sha256  $wheel" | sha256sum --check --quiet
"$python" - "$wheel" "$work/include" <<'PYTHON'
import pathlib, sys, zipfile

wheel, target = sys.argv[1:]
pathlib.Path(target).mkdir()
with zipfile.ZipFile(wheel) as archive:
    for name in archive.namelist():
        if name.startswith("kernel_lens/include/tensorrt/NvInfer") and name.endswith(".h"):
            (pathlib.Path(target) / name.rpartition("/")[2]).write_bytes(archive.read(name))
PYTHON
rm "$wheel"
rm -rf "$target"
mv "$work" "$target"
trap - EXIT
chmod 755 "$target"
