#!/usr/bin/env bash
# From a fresh Debian 12 machine to an answer: installs what is missing, builds weft, fetches SmolLM2-135M-Instruct (real
# weights, 98 MB, kept in ~/.cache/weft) and answers a prompt with the model split over two ranks.
#
#   scripts/quickstart.sh [PROMPT]
set -euo pipefail
cd "$(dirname "$0")/.."
source scripts/lib/steps.sh
num_steps=4

prompt=${1:-What is gravity? Answer in two sentences.}

build() {
  cmake --preset release && cmake --build --preset release --target weft
}

step "Packages" scripts/install_dependencies.sh
step "Build (release)" build
step "SmolLM2-135M-Instruct" scripts/fetch_smollm2.sh
model=$(tail -n 1 "$last_log")

# The line that `build/release/weft launch -n 2 -- generate …` would put together by itself.
line=(mpirun --bind-to none --oversubscribe -n 2)
[[ $(id -u) -ne 0 ]] || line+=(--allow-run-as-root)
line+=(build/release/weft generate --model "$model" --chat "$prompt" --max-new-tokens 200)
printf '[4/%d]%s\n' "$num_steps" "$(printf ' %q' "${line[@]}")"
"${line[@]}" </dev/null
