#!/usr/bin/env bash
# tools/venv.sh FOLDER EXTRAS: a virtual environment with this checkout installed, rebuilt only when the sources changed.
set -euo pipefail
folder=$1 extras=${2:-}
cd "$(dirname "$0")/.."
python=${PYTHON:-python3}
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || {
  echo "gaitcrafter-rt needs Python 3.11 or newer; $("$python" --version) was found. Set PYTHON=/path/to/python3.11" >&2
  exit 1
}
[ -x "$folder/bin/python" ] || "$python" -m venv "$folder"
stamp=$( { echo "$extras"; cat VERSION pyproject.toml CMakeLists.txt constraints.txt
           find csrc cmake gaitcrafter_rt kernels export -type f ! -name '*.pyc' ! -name '*.so' ! -path '*/__pycache__/*' -print0 |
             sort -z | xargs -0 sha256sum; } | sha256sum | cut -d' ' -f1)
if [ "$(cat "$folder/.installed" 2>/dev/null || true)" != "$stamp" ]; then
  "$folder/bin/pip" install -q --disable-pip-version-check --upgrade 'pip>=24' 2>&1 | grep -v "is ignored: it is neither" || true
  target=.
  [ -n "$extras" ] && target=".[$extras]"
  "$folder/bin/pip" install -q --disable-pip-version-check -c constraints.txt "$target" 2>&1 | grep -v "is ignored: it is neither" || true
  "$folder/bin/python" -c 'import gaitcrafter_rt'
  echo "$stamp" > "$folder/.installed"
fi
