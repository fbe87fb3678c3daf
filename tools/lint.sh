#!/usr/bin/env bash
# tools/lint.sh VENV: formatting, lint and types of Python and C++. Changes nothing.
set -euo pipefail
cd "$(dirname "$0")/.."
venv=$1
links=()
trap '[ ${#links[@]} -eq 0 ] || rm -f "${links[@]}"' EXIT
[ -x "$venv/bin/python" ] || "${PYTHON:-python3}" -m venv "$venv"
"$venv/bin/pip" install -q --disable-pip-version-check ruff==0.17.6 mypy==2.4.1 numpy pydantic click rich pillow pytest pybind11 2>&1 |
  grep -v "is ignored: it is neither" || true
"$venv/bin/ruff" check .
# A wheel maps kernels/ and export/ into the package; mypy sees them there through links, which go again.
for folder in kernels export; do
  if [ ! -e "gaitcrafter_rt/$folder" ]; then
    ln -s "../$folder" "gaitcrafter_rt/$folder"
    links+=("gaitcrafter_rt/$folder")
  fi
done
"$venv/bin/mypy"
mapfile -t sources < <(git ls-files 'csrc/*.cc' 'csrc/*.h' 'csrc/*.hpp')
clang-format --dry-run --Werror "${sources[@]}"
mapfile -t units < <(git ls-files 'csrc/*.cc' | grep -v -e '_test\.cc$' -e '^csrc/python/' -e '^csrc/examples/')
cmake --preset release -B build/lint -DGAITCRAFTER_PYTHON=OFF -DGAITCRAFTER_DEV_TREE=OFF >/dev/null
# What this machine does not build (headers of ONNX Runtime or TensorRT absent) cannot be read either.
printf '%s\n' "${units[@]}" | while read -r unit; do
  if grep -q "/$unit\"" build/lint/compile_commands.json; then echo "$unit"; fi
done | xargs -P "$(nproc)" -n 4 clang-tidy -p build/lint --quiet 2>/dev/null
