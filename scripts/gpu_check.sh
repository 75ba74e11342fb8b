#!/usr/bin/env bash
# Checks and measures Weft on a machine with a GPU, from an unpacked bundle (scripts/bundle.sh) or from a build, and
# writes what it found to one JSON file. docs/gpu.md says more.
#
#   gpu_check.sh [--build DIR] [--output FILE] [--golden DIR] [PART …]
#
# Parts, all of them if none is named: parity goldens training ranks sanitizer kernels bench peers
set -uo pipefail
here=$(cd "$(dirname "$0")" && pwd)

build=
output=gpu_check.json
golden=$here/golden
parts=()
while [[ $# -gt 0 ]]; do
  case "$1" in
    --build) build=$2 && shift 2 ;;
    --output) output=$2 && shift 2 ;;
    --golden) golden=$2 && shift 2 ;;
    --help) sed -n '2,8s/^# \{0,1\}//p' "$0" && exit 0 ;;
    *) parts+=("$1") && shift ;;
  esac
done
[[ ${#parts[@]} -gt 0 ]] || parts=(parity goldens training ranks sanitizer kernels bench peers)

library_path=${LD_LIBRARY_PATH:-}  # the machine's own, for its Python

if [[ -n $build ]]; then
  weft=$build/weft
  kernels_test=$build/tests/cuda/cuda_kernels_test
  kernels_bench=$build/tests/cuda/cuda_bench
  communicator_test=$build/tests/parallel/gpu_communicator_test
  configs=$here/../configs
  mpirun=mpirun
else
  weft=$here/bin/weft
  kernels_test=$here/bin/cuda_kernels_test
  kernels_bench=$here/bin/cuda_bench
  communicator_test=$here/bin/gpu_communicator_test
  configs=$here/configs
  mpirun=$here/mpi/usr/bin/mpirun
  export OPAL_PREFIX=$here/mpi/usr OPAL_LIBDIR OPAL_PKGLIBDIR
  OPAL_LIBDIR=$(dirname "$(find "$here/mpi" -name 'openmpi[0-9]*' -type d | head -n 1)")
  OPAL_PKGLIBDIR=$(find "$here/mpi" -name 'openmpi[0-9]*' -type d | head -n 1)
  # CUDA's libraries lie in the toolkit or in Python's packages.
  cuda=$(python3 -c 'import nvidia, glob; print(":".join(glob.glob(nvidia.__path__[0] + "/*/lib")))' 2>/dev/null)
  export LD_LIBRARY_PATH=$here/lib:/usr/local/cuda/lib64:$cuda:${LD_LIBRARY_PATH:-}
fi
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
results=$work/results
: >"$results"
: >"$work/failed"

# note NAME VALUE: a line of the JSON file; the value is JSON.
note() {
  printf '"%s": %s\n' "$1" "$2" >>"$results"
}

text() {
  python3 -c 'import json, sys; print(json.dumps(sys.argv[1]))' "$1"
}

# attempt NAME SECONDS COMMAND …: one check, whose output is in $log.
attempt() {
  local name=$1 limit=$2 status
  shift 2
  log=$work/${name//\//_}.log
  timeout "$limit" "$@" >"$log" 2>&1
  status=$?
  if [[ $status -eq 0 ]]; then
    note "$name" '"ok"'
  else
    echo "$name" >>"$work/failed"
    note "$name" "$(text "failed with $status: $(tail -n 1 "$log")")"
    printf 'FAILED %s (%s): %s\n' "$name" "$status" "$(grep -E 'error|FAIL|rror:|off by' "$log" | head -n 3 | cut -c 1-300)"
    { echo "== $name" && head -n 80 "$log"; } >>"${output%.json}.failures"
  fi
  return "$status"
}

# in_parallel COMMAND …: starts it beside the others; a GPU is shared by as many as half the processors.
in_parallel() {
  while [[ $(jobs -rp | wc -l) -ge $((($(nproc) + 1) / 2)) ]]; do wait -n; done
  "$@" &
}

# one_value FILE: its JSON objects, one a line, as one value: the object itself, or a list of several.
one_value() {
  if [[ $(grep -c '^{' "$1") -gt 1 ]]; then printf '[%s]' "$(paste -sd ',' "$1")"; else tr '\n' ' ' <"$1"; fi
}

# measure NAME SECONDS COMMAND …: a benchmark that prints JSON.
measure() {
  local name=$1 limit=$2
  shift 2
  if timeout "$limit" "$@" >"$work/json" 2>"$work/log"; then
    note "$name" "$(one_value "$work/json")"
    printf '%s: %s\n' "$name" "$(tr '\n' ' ' <"$work/json" | cut -c 1-700)"
  else
    echo "$name" >>"$work/failed"
    note "$name" "$(text "failed: $(tail -n 1 "$work/log")")"
    printf 'FAILED %s: %s\n' "$name" "$(tail -n 1 "$work/log")"
  fi
}

# A process a suite: after a fault a process can do no more.
run_parity() {
  local suite
  for suite in $("$kernels_test" --gtest_list_tests | sed -n 's|^\([^ ]*\.\).*|\1|p'); do
    [[ -z ${EXCLUDED:-} || ! $suite =~ $EXCLUDED ]] || continue
    in_parallel attempt "parity/${suite%.}" 60 "$kernels_test" --gtest_brief=1 --gtest_filter="$suite*"
  done
  wait
  echo "parity: $(grep -c '"parity/.*"ok"' "$results") suites ok"
}

# verify_case NAME OPTIONS …
verify_case() {
  local name=$1
  shift
  attempt "$name" 120 "$weft" verify --device cuda --threads 2 "$@" && echo "$name" >>"$work/verified"
}

run_goldens() {
  local folder tensor total=0
  : >"$work/verified"
  for tensor in 1 2; do
    for folder in "$golden"/seed/*/ "$golden"/hf/*/; do
      folder=${folder%/}
      [[ -f $folder/golden.h5 ]] || continue
      total=$((total + 1))
      local model=$folder
      [[ ! -f $folder/model.weights.h5 ]] || model="$folder/model.weights.h5 --config $folder/config.json"
      # shellcheck disable=SC2086
      in_parallel verify_case "golden/$(basename "$folder")/tensor_$tensor" --model $model --golden "$folder/golden.h5" \
        --tensor-parallel $tensor
    done
  done
  wait
  echo "goldens: $(wc -l <"$work/verified") of $total"
}

run_training() {
  local folder run
  : >"$work/verified"
  for folder in "$golden"/train/*/; do
    folder=${folder%/}
    for run in full lora; do
      [[ $run != lora || -d $folder/lora ]] || continue
      in_parallel verify_case "training/$(basename "$folder")/$run" --model "$folder" --golden "$folder/golden.h5" --run $run
    done
    in_parallel verify_case "training/$(basename "$folder")/sharded" --model "$folder" --golden "$folder/golden.h5" --run full \
      --data-parallel 2 --tensor-parallel 2 --zero 3 --recompute block
  done
  wait
  echo "training: $(wc -l <"$work/verified") passed"
}

run_ranks() {
  local folder
  attempt communicators 120 "$communicator_test" --gtest_brief=1
  tail -n 3 "$log"
  for folder in "$golden"/hf/llama*/ "$golden"/hf/gemma2*/; do
    folder=${folder%/}
    [[ -f $folder/golden.h5 ]] || continue
    attempt "mpirun/$(basename "$folder")" 120 "$mpirun" --allow-run-as-root --oversubscribe --bind-to none -n 2 \
      "$weft" verify --device cuda --model "$folder" --golden "$folder/golden.h5" --tensor-parallel 2 &&
      echo "mpirun -n 2, $(basename "$folder"): ok"
  done
}

run_sanitizer() {
  command -v compute-sanitizer >/dev/null || { echo "compute-sanitizer is missing: SKIPPED" && return; }
  attempt sanitizer 300 compute-sanitizer --error-exitcode 9 "$kernels_test" --gtest_brief=1 \
    --gtest_filter="${SANITIZED:-*}"
  grep -E 'ERROR SUMMARY|Invalid|at 0x' "$log" | head -n 10
}

run_kernels() {
  local part
  for part in few_rows products attention; do
    attempt "kernels/$part" 60 "$kernels_bench" "$part"
    cat "$log"
    note "measured/$part" "$(text "$(cat "$log")")"
  done
}

run_bench() {
  local model
  for model in ${DECODE_MODELS:-gemma2-2b gemma2-9b gemma2-27b}; do
    measure "decode/$model" 120 "$weft" bench decode --device cuda --json --model "$configs/models/$model.json"
  done
  measure "train/lora/llama3-8b" 150 "$weft" bench train --device cuda --json --model "$configs/models/llama3-8b.json" \
    --lora 16 --sequence 4096 --recompute "${LORA_RECOMPUTE:-selective}" --repetitions 3
  measure "train/full/qwen2-1.5b" 150 "$weft" bench train --device cuda --json --model "$configs/models/qwen2-1.5b.json" \
    --batch "${FULL_BATCH:-4}" --sequence 4096 --recompute "${FULL_RECOMPUTE:-selective}" --no-masters --repetitions 3
}

# torch and transformers on this machine and in this run, to compare `bench` with.
run_peers() {
  local python=(env LD_LIBRARY_PATH="$library_path" HF_HUB_OFFLINE=1 python3)
  local packages='import importlib.util as u, sys; sys.exit(not all(map(u.find_spec, ("torch", "transformers", "peft"))))'
  if ! nvidia-smi -L >/dev/null 2>&1 || ! "${python[@]}" -c "$packages"; then
    note peers '"skipped"'
    echo "SKIPPED peers: no GPU, or python3 lacks torch, transformers or peft"
    return
  fi
  measure peers 110 "${python[@]}" "$here/peers/gpu_peer.py" all --configs "$configs/models" --limit "${PEERS_LIMIT:-95}"
  cut -c 1-330 "$work/json"
}

note date "\"$(date -u '+%F %T')\""
note device "$(text "$(nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader 2>&1 | head -n 1)")"
for part in "${parts[@]}"; do
  begin=$SECONDS
  "run_$part"
  note "seconds/$part" $((SECONDS - begin))
done
{ echo '{' && paste -sd ',' "$results" | sed 's/,"/,\n"/g' && echo '}'; } >"$output"
echo "$(wc -l <"$work/failed") failed; $output"
[[ ! -s $work/failed ]]
