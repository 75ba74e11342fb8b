#!/usr/bin/env bash
# Fetches a text to train on: the aphorisms of Debian's package fortunes (public domain and short quotations), a JSON
# line each, into ${XDG_CACHE_HOME:-~/.cache}/weft/fortunes.jsonl, and prints that path. A second run does nothing.
set -euo pipefail

cache=${XDG_CACHE_HOME:-$HOME/.cache}/weft
out=$cache/fortunes.jsonl
collections=(computers cookie definitions drugs education food humorists kids law linux love men-women miscellaneous
  people pets platitudes politics science songs-poems sports startrek tao wisdom work zippy)

mkdir -p "$cache"
if [[ ! -s $out ]]; then
  scratch=$(mktemp -d "$cache/fetch.XXXXXX")
  trap 'rm -rf "$scratch"' EXIT
  (cd "$scratch" && apt-get download fortunes >&2 && dpkg-deb -x fortunes_*.deb .)
  # Lines of a single % separate the texts; the .u8 files are UTF-8.
  python3 - "$scratch/usr/share/games/fortunes" "${collections[@]}" >"$scratch/fortunes.jsonl" <<'PYTHON'
import json, pathlib, sys

folder = pathlib.Path(sys.argv[1])
for name in sys.argv[2:]:
    text = (folder / name).read_text(encoding="utf-8", errors="replace")
    for fortune in text.split("\n%\n"):
        if fortune.strip("\n% "):
            print(json.dumps({"text": fortune.strip("\n") + "\n"}, ensure_ascii=False))
PYTHON
  mv "$scratch/fortunes.jsonl" "$out"
fi
echo "$out"
