#!/usr/bin/env bash
# tools/onnxruntime-sdk.sh [FOLDER]: Microsoft's headers of ONNX Runtime (MIT) into .sdks/onnxruntime/include, once per machine.
# The wheels of onnxruntime have the library and no headers; the one package of the npm registry that has them is a Unity plug-in,
# which carries Microsoft's own files inside its iOS framework. The library itself is opened at run time and is no part of this.
set -euo pipefail
cd "$(dirname "$0")/.."
target=${1:-.sdks/onnxruntime}
package=com.github.asus4.onnxruntime version=0.4.9
inside='package/Plugins/iOS~/onnxruntime.xcframework/ios-arm64/onnxruntime.framework/Headers'
sha256=e59788788818fdde1b2e522e766a21ba0f7d8391de55737abf81e32cc801785d
if [ -e "$target/include/onnxruntime_cxx_api.h" ]; then
  exit 0
fi
if ! command -v npm >/dev/null; then
  echo "npm is absent, so ONNX Runtime's headers cannot be fetched: the C++ backend onnxruntime is left out of this build" >&2
  exit 1
fi
mkdir -p "$(dirname "$target")"
work=$(mktemp -d "$(dirname "$target")/.new-XXXXXX")
trap 'rm -rf "$work"' EXIT
echo "fetching ONNX Runtime's headers (150 MB, once)"
(cd "$work" && npm pack --silent "$package@$version" >/dev/null) || {
  echo "npm pack $package@$version failed: the C++ backend onnxruntime is left out of this build" >&2
  exit 1
}
echo "$sha256  $work/$package-$version.tgz" | sha256sum --check --quiet
tar -xzf "$work/$package-$version.tgz" -C "$work" "$inside"
mv "$work/$inside" "$work/include"
rm -rf "$work/package" "$work/$package-$version.tgz"
rm -rf "$target"
mv "$work" "$target"
trap - EXIT
chmod 755 "$target"
