#!/usr/bin/env bash
# Fine-tunes a sentence classifier from all-MiniLM-L6-v2 under mpirun -n 2 (configs/minilm-classifier.textproto: which file a
# fortune of Debian's package fortunes is from) and with torch by the same recipe; prints the held-out accuracy of both, and
# of the folder that Weft saved as transformers reads it. Needs the packages of scripts/bench_peers.sh.
#
#   scripts/check_classifier.sh                        (about ten minutes, most of them torch's)
#   TORCH_SEEDS="0 1 2 3 4" scripts/check_classifier.sh
set -euo pipefail
cd "$(dirname "$0")/.."
source scripts/lib/steps.sh
num_steps=4

cache=${XDG_CACHE_HOME:-$HOME/.cache}/weft
python=$cache/peers/venv/bin/python
weft=${WEFT:-build/release/weft}
out=${OUT:-build/classifier}
if [[ ! -x $python ]]; then
  echo "Run scripts/bench_peers.sh --peers-only first: it installs torch and transformers." >&2
  exit 1
fi

step "all-MiniLM-L6-v2" scripts/fetch_minilm.sh
model=$(tail -n 1 "$last_log")
step "Labelled fortunes" scripts/fetch_labelled_fortunes.sh
data=$(tail -n 1 "$last_log")
step "Weft on two ranks" "$weft" launch -n 2 -- train configs/minilm-classifier.textproto --start-over \
  --set "model.path=$model" --set "data.sources[0].path=$data/fortunes-train.jsonl" \
  --set "evaluation.sources[0].path=$data/fortunes-test.jsonl" --set "output.directory=$out"
read -ra seeds <<<"${TORCH_SEEDS:-0 1}"
step "torch and transformers" "$python" scripts/check_classifier.py --model "$model" --data "$data" --run "$out" \
  --seeds "${seeds[@]}"
cat "$last_log"
