#!/usr/bin/env bash
# Fine-tunes SmolLM2-135M-Instruct on a real text under mpirun, with LoRA and in full, and checks the results with the
# programs that others use: held-out perplexity drops; PEFT opens the adapter, transformers the merged and the fully
# tuned weights, and all of them write the same continuations as Weft. Needs the packages of scripts/bench_peers.sh.
#
#   scripts/check_finetune.sh [STEPS]        (default 40; about two minutes for each run)
set -euo pipefail
cd "$(dirname "$0")/.."
source scripts/lib/steps.sh
num_steps=6

cache=${XDG_CACHE_HOME:-$HOME/.cache}/weft
python=$cache/peers/venv/bin/python
base=$cache/smollm2-bf16-hf
weft=${WEFT:-build/release/weft}
out=${OUT:-build/finetune}
steps=${1:-40}
if [[ ! -x $python || ! -f $base/model.safetensors ]]; then
  echo "Run scripts/bench_peers.sh --peers-only first: it installs torch, transformers and peft and makes SmolLM2 in bf16." >&2
  exit 1
fi

# train NAME CONFIG: on two ranks.
train() {
  "$weft" launch -n 2 -- train "$2" --start-over --set "model.path=$base" --set "data.sources[0].path=$text" \
    --set "train.steps=$steps" --set "evaluation.every_steps=0" --set "output.directory=$out/$1"
}

mkdir -p "$out"
step "Text" scripts/fetch_fortunes.sh
text=$(tail -n 1 "$last_log")
step "LoRA on two ranks" train lora configs/smollm2-lora.textproto
step "All weights on two ranks" train full configs/smollm2-full.textproto
last=$(printf 'checkpoints/step-%08d' "$steps")
rm -rf "$out/merged"
step "Merge" "$weft" merge --model "$base" --adapter "$out/lora/$last" --out "$out/merged" --dtype f32
step "Held-out loss" "$python" scripts/check_finetune.py loss "$out/lora" "$out/full"
cat "$last_log"
step "PEFT and transformers" "$python" scripts/check_finetune.py continuations --weft "$weft" --base "$base" \
  --adapter "$out/lora/$last" --merged "$out/merged" --full "$out/full/$last"
cat "$last_log"
