#!/usr/bin/env bash
# Trains a small T5 from random weights on English words and their pronunciations under mpirun -n 2
# (configs/pronunciations.textproto), shows how many held-out words it learns to pronounce to the letter, and holds that
# number against what greedy generation writes for them, one by one.
#
#   scripts/check_sequences.sh [STEPS]        (default 1400; about five minutes)
set -euo pipefail
cd "$(dirname "$0")/.."
source scripts/lib/steps.sh
num_steps=3

weft=${WEFT:-build/release/weft}
out=${OUT:-build/sequences}
steps=${1:-1400}

step "Words and pronunciations" scripts/fetch_pronunciations.sh
data=$(tail -n 1 "$last_log")
step "T5 on two ranks" "$weft" launch -n 2 -- train configs/pronunciations.textproto --start-over --set "train.steps=$steps" \
  --set "model.path=$data/config.json" --set "model.tokenizer=$data" --set "data.sources[0].path=$data/train.jsonl" \
  --set "evaluation.sources[0].path=$data/test.jsonl" --set "output.directory=$out"
grep "held-out" "$last_log"

# Held-out words through generation, against the pronunciations.
count_right() {
  python3 - "$data/test.jsonl" "$1" <<'PYTHON'
import json, sys

pairs = [json.loads(line) for line in open(sys.argv[1], encoding="utf-8")]
answers = [json.loads(line)["text"] for line in open(sys.argv[2], encoding="utf-8")]
right = sum(pair["completion"] == answer for pair, answer in zip(pairs, answers, strict=True))
print(f"{right} of {len(pairs)} held-out words written right: {right / len(pairs):.4f}")
PYTHON
}
python3 -c 'import json, sys; [print(json.loads(line)["prompt"]) for line in sys.stdin]' <"$data/test.jsonl" >"$out/words.txt"
last=$(printf '%s/checkpoints/step-%08d' "$out" "$steps")
generate() {
  "$weft" generate --model "$last" --dtype f32 --batch 64 --max-new-tokens 40 --prompt-file "$out/words.txt" --json --quiet >"$out/answers.jsonl"
}
step "Greedy generation" generate
count_right "$out/answers.jsonl"
