#!/usr/bin/env bash
# Fetches labelled texts to train encoders on, made of the aphorisms of Debian's package fortunes; every fifth goes into
# the test set:
#   fortunes-{train,test}.jsonl       those of eight files, labelled by their file (classification)
#   authors-{train,test}.jsonl        with the place of the name that a text is signed with (tagging, entities)
#   questions-{train,test}.jsonl      the same as questions (question answering)
#   halves-{train,test}.tsv           the first and the second half of a text (similarity)
# Writes them to ${XDG_CACHE_HOME:-~/.cache}/weft/fortunes-labelled/ and prints that folder. A second run does nothing.
set -euo pipefail

cache=${XDG_CACHE_HOME:-$HOME/.cache}/weft
out=$cache/fortunes-labelled
files=(computers definitions food law love science startrek work)

mkdir -p "$cache"
if [[ ! -s $out/halves-test.tsv ]]; then
  scratch=$(mktemp -d "$cache/fetch.XXXXXX")
  trap 'rm -rf "$scratch"' EXIT
  (cd "$scratch" && apt-get download fortunes >&2 && dpkg-deb -x fortunes_*.deb .)
  mkdir -p "$scratch/out" "$out"
  python3 - "$scratch/usr/share/games/fortunes" "$scratch/out" "${files[@]}" <<'PYTHON'
import json, pathlib, random, re, sys

folder, out = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2])


def fortunes_of(path):
    text = path.read_text(encoding="utf-8", errors="replace")
    return [fortune for fortune in text.split("\n%\n") if len(fortune) > 20]


def write(kind, rows, ending, line_of):
    for part, chosen in (("train", [r for i, r in enumerate(rows) if i % 5]), ("test", rows[::5])):
        random.Random(0).shuffle(chosen)
        with open(out / f"{kind}-{part}.{ending}", "w", encoding="utf-8") as file:
            for row in chosen:
                print(line_of(row), file=file)


def as_json(row):
    return json.dumps(row, ensure_ascii=False)


labelled = []
for name in sys.argv[3:]:
    texts = [" ".join(fortune.split()) for fortune in fortunes_of(folder / name)]
    texts = [text for text in texts if len(text) > 20][:400]
    labelled += [{"text": text, "label": name} for text in texts]
    labelled += [None] * (-len(texts) % 5)  # every fifth of each file
parts = {"train": [r for i, r in enumerate(labelled) if i % 5 and r], "test": [r for r in labelled[::5] if r]}
for part, rows in parts.items():
    random.Random(0).shuffle(rows)
    with open(out / f"fortunes-{part}.jsonl", "w", encoding="utf-8") as file:
        for row in rows:
            print(as_json(row), file=file)

signed, halves = [], []
for path in sorted(folder.iterdir()):
    if path.suffix or not path.is_file():
        continue
    for fortune in fortunes_of(path):
        found = re.fullmatch(r"(.*?)\s+-- ([A-Z][\w.'-]*(?: [\w.'-]+){0,3})(?:,\s.*)?\s*", fortune, re.S)
        if found and 20 < len(found[1]) < 400:
            said, name = " ".join(found[1].split()), found[2]
            signed.append((said, name))
        words = fortune.split()
        if 16 <= len(words) <= 60:
            halves.append((" ".join(words[: len(words) // 2]), " ".join(words[len(words) // 2 :])))
random.Random(1).shuffle(signed)
random.Random(1).shuffle(halves)
authors, questions = [], []
for i, (said, name) in enumerate(signed[:3000]):
    text = f"{name} said: {said}" if i % 2 else f"{said} {name}"
    start = text.index(name) if i % 2 else len(said) + 1
    authors.append({"text": text, "entities": [{"start": start, "end": start + len(name), "label": "AUTHOR"}]})
    answers = {"text": [name], "answer_start": [start]}
    questions.append({"question": "Who said this?", "context": text, "answers": answers})
write("authors", authors, "jsonl", as_json)
write("questions", questions, "jsonl", as_json)
write("halves", halves[:3000], "tsv", "\t".join)
PYTHON
  mv "$scratch"/out/* "$out/"
fi
echo "$out"
