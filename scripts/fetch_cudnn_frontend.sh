#!/usr/bin/env bash
# Fetches the headers of cuDNN's frontend (MIT licence, 2 MB) out of the Python package nvidia-cudnn-frontend into
# ${XDG_CACHE_HOME:-~/.cache}/weft/cudnn_frontend/include, where CMake looks for them. A second run only checks them.
set -euo pipefail
source "$(dirname "$0")/lib/python_package.sh"

version=1.18.0
sha256=82dc83e0b8506675973d1dbd198576a70f7463faf07cab64745029cd8a718fee
cache=${XDG_CACHE_HOME:-$HOME/.cache}/weft

# All headers' SHA-256 in one.
sum_of_headers() {
  (cd "$1" && find . -name '*.h' -o -name '*.hpp' | LC_ALL=C sort | xargs sha256sum | sha256sum | cut -d ' ' -f 1)
}

folder=$cache/cudnn_frontend/include  # of this name, by which the headers find each other
mkdir -p "$(dirname "$folder")"
if [[ ! -d $folder || $(sum_of_headers "$folder") != "$sha256" ]]; then
  scratch=$(mktemp -d "$cache/fetch.XXXXXX")
  trap 'rm -rf "$scratch"' EXIT
  download_package nvidia-cudnn-frontend "$version" "$scratch"
  unzip -q "$scratch"/nvidia_cudnn_frontend-*.whl 'include/*' -d "$scratch"
  if [[ $(sum_of_headers "$scratch/include") != "$sha256" ]]; then
    echo "nvidia-cudnn-frontend $version: its headers' SHA-256 is not $sha256; the package changed, or the download is broken" >&2
    exit 1
  fi
  rm -rf "$folder"
  mv "$scratch/include" "$folder"
fi
echo "$folder"
