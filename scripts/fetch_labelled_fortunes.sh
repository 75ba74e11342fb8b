#!/usr/bin/env bash
# Fetches labelled texts to train a classifier on: the aphorisms of eight files of Debian's package fortunes, labelled by
# their file, a JSON line each; every fifth goes into the test set. Writes fortunes-train.jsonl and fortunes-test.jsonl to
# ${XDG_CACHE_HOME:-~/.cache}/weft/fortunes-labelled/ and prints that folder. A second run does nothing.
set -euo pipefail

cache=${XDG_CACHE_HOME:-$HOME/.cache}/weft
out=$cache/fortunes-labelled
files=(computers definitions food law love science startrek work)

mkdir -p "$cache"
if [[ ! -s $out/fortunes-test.jsonl ]]; then
  scratch=$(mktemp -d "$cache/fetch.XXXXXX")
  trap 'rm -rf "$scratch"' EXIT
  (cd "$scratch" && apt-get download fortunes >&2 && dpkg-deb -x fortunes_*.deb .)
  mkdir -p "$scratch/out" "$out"
  python3 - "$scratch/usr/share/games/fortunes" "$scratch/out" "${files[@]}" <<'PYTHON'
import json, pathlib, random, sys

folder, out = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2])
parts = {"train": [], "test": []}
for name in sys.argv[3:]:
    text = (folder / name).read_text(encoding="utf-8", errors="replace")
    fortunes = [" ".join(fortune.split()) for fortune in text.split("\n%\n")]
    fortunes = [fortune for fortune in fortunes if len(fortune) > 20]
    for i, fortune in enumerate(fortunes[:400]):
        parts["test" if i % 5 == 0 else "train"].append({"text": fortune, "label": name})
for part, rows in parts.items():
    random.Random(0).shuffle(rows)
    with open(out / f"fortunes-{part}.jsonl", "w", encoding="utf-8") as file:
        for row in rows:
            print(json.dumps(row, ensure_ascii=False), file=file)
PYTHON
  mv "$scratch"/out/*.jsonl "$out/"
fi
echo "$out"
