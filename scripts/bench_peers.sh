#!/usr/bin/env bash
# Compares Weft with llama.cpp, transformers (and peft for training) and tokenizers on this machine: the same weights
# (SmolLM2-135M-Instruct in BF16), the same work, two threads each, taking turns, medians. Prints tables; timings are no
# tests, so it exits 0. Training alone: --only train. Sentence vectors (all-MiniLM-L6-v2, also against onnxruntime,
# openvino and ctranslate2) alone: --only encode. A T5's generation (also against ctranslate2): --only seq2seq. RWKV-6
# (random weights, also against the package rwkv): --only rwkv.
#
#   scripts/bench_peers.sh [--out NAME] [--rounds N] [--only PART] [--peers-only]
#
# --out NAME writes NAME.json and NAME.md. The peers are installed into ${XDG_CACHE_HOME:-~/.cache}/weft/peers at the
# first run: torch and transformers from their packages, llama.cpp (of llama-cpp-python) compiled for this processor.
# WEFT=path takes another binary than build/release/weft.
set -euo pipefail
cd "$(dirname "$0")/.."
source scripts/lib/steps.sh
num_steps=11

cache=${XDG_CACHE_HOME:-$HOME/.cache}/weft
peers=$cache/peers
python=$peers/venv/bin/python
case "${1:-}" in -h | --help) sed -n '2,12s/^# \{0,1\}//p' "$0" && exit 0 ;; esac

install_packages() {
  python3 -m venv "$peers/venv"
  "$python" -m pip install --disable-pip-version-check numpy gguf tokenizers torch transformers peft \
    onnx onnxscript onnxruntime openvino ctranslate2
}

# Compiled here, since a wheel compiled elsewhere would lack this processor's instructions.
build_llama_cpp() {
  CMAKE_ARGS="-DGGML_NATIVE=ON -DCMAKE_BUILD_TYPE=Release" CMAKE_BUILD_PARALLEL_LEVEL=$(nproc) \
    "$python" -m pip install --disable-pip-version-check --verbose --no-cache-dir --no-binary llama-cpp-python llama-cpp-python
}

build_driver() {
  local site
  site=$("$python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
  g++ -std=c++20 -O2 -I"$site/include" scripts/peers/llama_peer.cpp -o "$peers/llama_peer" \
    -L"$site/llama_cpp/lib" -Wl,-rpath,"$site/llama_cpp/lib" -lllama -lggml -lggml-base -lggml-cpu
}

# once NAME COMMAND …: a step that is skipped when it was done before on this processor.
once() {
  local stamp="$peers/$1.done" processor
  processor=$(grep -m1 'model name' /proc/cpuinfo)$(grep -m1 '^flags' /proc/cpuinfo)
  shift
  if [[ $(cat "$stamp" 2>/dev/null) == "$processor" ]]; then
    step "$1" true
  else
    step "$@"
    echo "$processor" >"$stamp"
  fi
}

make_models() {
  local model
  model=$(scripts/fetch_smollm2.sh)
  [[ -f $cache/smollm2-bf16.gguf && -f $cache/smollm2-bf16-hf/model.safetensors ]] ||
    "$python" scripts/make_smollm2_bf16.py --gguf "$model" --out-gguf "$cache/smollm2-bf16.gguf" --out-hf "$cache/smollm2-bf16-hf"
}

make_t5() {
  [[ -f $cache/flan-t5-small-random/model.safetensors ]] || "$python" scripts/make_random_t5.py "$cache/flan-t5-small-random"
}

install_rwkv() {
  "$python" -m pip install --disable-pip-version-check --no-deps rwkv==0.8.32
}

make_rwkv6() {
  [[ -f $cache/rwkv6.pth ]] || "$python" scripts/peers/rwkv_peer.py make "$cache/rwkv6.pth"
}

build_weft() {
  [[ -n ${WEFT:-} ]] || { cmake --preset release && cmake --build --preset release --target weft; }
}

mkdir -p "$peers"
step "Packages" scripts/install_dependencies.sh --test
once packages_with_encoders "transformers, torch, tokenizers, peft, onnxruntime, openvino, ctranslate2" install_packages
once llama_cpp "llama.cpp, compiled for this processor" build_llama_cpp
once driver "llama.cpp's driver" build_driver
step "SmolLM2 in BF16" make_models
step "all-MiniLM-L6-v2" scripts/fetch_minilm.sh
step "Texts for it" scripts/fetch_labelled_fortunes.sh
step "A T5 with random weights" make_t5
once rwkv "The package rwkv" install_rwkv
step "RWKV-6 of random weights" make_rwkv6
if [[ " $* " == *" --peers-only "* ]]; then step "Weft is left out" true; else step "Build (release)" build_weft || true; fi
"$python" scripts/bench_peers.py --weft "${WEFT:-build/release/weft}" --cache "$cache" "$@" || true
