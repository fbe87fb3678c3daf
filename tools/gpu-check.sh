#!/usr/bin/env bash
# tools/gpu-check.sh [ARGUMENTS of gpu-check]: python -m gaitcrafter_rt.gpu_check by an interpreter whose torch sees a GPU: the one
# named by PYTHON (python3) if it is one and can import this checkout, else a virtual environment of its own. Exit 77: no GPU here.
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-python3}
if ! ls /dev/nvidia[0-9]* >/dev/null 2>&1 && ! command -v nvidia-smi >/dev/null; then
  echo "gpu-check: no NVIDIA GPU here; nothing was run"
  exit 77
fi
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}"
if ! "$python" -c 'import sys, torch, gaitcrafter_rt.kernels.launch; sys.exit(not torch.cuda.is_available())' 2>/dev/null; then
  unset PYTHONPATH
  tools/venv.sh .venvs/gpu gpu,train,onnx
  python=$PWD/.venvs/gpu/bin/python
  cd .venvs # so that the installed package is imported, and not the checkout
  set -- --out "$OLDPWD" "$@"
fi
exec "$python" -m gaitcrafter_rt.gpu_check "$@"
