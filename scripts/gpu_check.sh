#!/usr/bin/env bash
# Checks and measures Weft on a machine with a GPU, from an unpacked bundle (scripts/bundle.sh) or from a build, and
# writes what it found to one JSON file. docs/gpu.md says more.
#
#   gpu_check.sh [--build DIR] [--output FILE] [--golden DIR] [--budget SECONDS] [PART …]
#
# Parts, all of them in this order if none is named:
# quantized parity goldens nccl sanitizer peers kernels bench training ranks
set -uo pipefail
here=$(cd "$(dirname "$0")" && pwd)

build=
output=gpu_check.json
golden=$here/golden
budget=86400
parts=()
while [[ $# -gt 0 ]]; do
  case "$1" in
    --build) build=$2 && shift 2 ;;
    --output) output=$2 && shift 2 ;;
    --golden) golden=$2 && shift 2 ;;
    --budget) budget=$2 && shift 2 ;;
    --help) sed -n '2,9s/^# \{0,1\}//p' "$0" && exit 0 ;;
    *) parts+=("$1") && shift ;;
  esac
done
[[ ${#parts[@]} -gt 0 ]] || parts=(quantized parity goldens nccl sanitizer peers kernels bench training ranks)
# Seconds of a part at most: about twice what it should take on an H100 with 16 cores.
declare -A limits=([quantized]=60 [parity]=150 [goldens]=130 [nccl]=100 [sanitizer]=80 [peers]=115 [kernels]=100
  [bench]=420 [training]=90 [ranks]=90)
for part in "${parts[@]}"; do
  [[ -n ${limits[$part]:-} ]] || { echo "no part '$part': one of ${!limits[*]}" >&2 && exit 2; }
done

library_path=${LD_LIBRARY_PATH:-}  # the machine's own, for its Python

if [[ -n $build ]]; then
  weft=$build/weft
  kernels_test=$build/tests/cuda/cuda_kernels_test
  kernels_bench=$build/tests/cuda/cuda_bench
  communicator_test=$build/tests/parallel/gpu_communicator_test
  nccl_test=$build/tests/parallel/gpu_nccl_test
  configs=$here/../configs
  mpirun=mpirun
else
  weft=$here/bin/weft
  kernels_test=$here/bin/cuda_kernels_test
  kernels_bench=$here/bin/cuda_bench
  communicator_test=$here/bin/gpu_communicator_test
  nccl_test=$here/bin/gpu_nccl_test
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
: >"$work/left_out"
part_end=$budget

# What is known so far, as it may be all that there will be.
write_output() {
  { echo '{' && sed '$!s/$/,/' "$results" && echo '}'; } >"$work/output.$BASHPID" && mv "$work/output.$BASHPID" "$output"
}

# note NAME VALUE: a line of the JSON file; the value is JSON.
note() {
  printf '"%s": %s\n' "$1" "$2" >>"$results"
  write_output
}

text() {
  python3 -c 'import json, sys; print(json.dumps(sys.argv[1]))' "$1"
}

# seconds_for LIMIT: what a check that begins now may take, its own limit or what its part has left; fails without any.
seconds_for() {
  local left=$((part_end - SECONDS))
  [[ $left -ge 3 ]] || return 1
  echo $(($1 < left ? $1 : left))
}

# leave_out NAME [REASON]: by default for want of time.
leave_out() {
  echo "$1" >>"$work/left_out"
  note "$1" "\"${2:-no time left}\""
}

# attempt NAME SECONDS COMMAND …: one check, whose output is in $log.
attempt() {
  local name=$1 limit seconds status
  limit=$2 && shift 2
  log=$work/${name//\//_}.log
  : >"$log"
  seconds=$(seconds_for "$limit") || { leave_out "$name" && return 1; }
  timeout -k 5 "$seconds" "$@" >"$log" 2>&1
  status=$?
  if [[ $status -eq 0 ]] && grep -q 'SKIPPED, not checked: no GPU' "$log"; then
    leave_out "$name" 'no GPU'
  elif [[ $status -eq 0 ]]; then
    note "$name" '"ok"'
  elif [[ $seconds -lt $limit && ($status -eq 124 || $status -eq 137) ]]; then
    leave_out "$name"
  else
    echo "$name" >>"$work/failed"
    note "$name" "$(text "failed with $status: $(tail -n 1 "$log")")"
    printf 'FAILED %s (%s): %s\n' "$name" "$status" "$(grep -E 'error|FAIL|rror:|off by' "$log" | head -n 3 | cut -c 1-300)"
    { echo "== $name" && head -n 80 "$log"; } >>"${output%.json}.failures"
  fi
  return "$status"
}

# in_parallel COMMAND …: starts it beside the others; a GPU is shared by $at_once, of two threads each that are not
# always busy.
at_once=$((($(nproc) * 3 + 3) / 4))
in_parallel() {
  while [[ $(jobs -rp | wc -l) -ge $at_once ]]; do wait -n; done
  # Threads that spin while others compute would take most of the time.
  OMP_WAIT_POLICY=passive "$@" &
}

# one_value FILE: its JSON objects, one a line, as one value: the object itself, or a list of several.
one_value() {
  if [[ $(grep -c '^{' "$1") -gt 1 ]]; then printf '[%s]' "$(paste -sd ',' "$1")"; else tr '\n' ' ' <"$1"; fi
}

# measure NAME SECONDS COMMAND …: a benchmark that prints JSON.
measure() {
  local name=$1 seconds
  seconds=$(seconds_for "$2") || { leave_out "$name" && return; }
  shift 2
  if timeout -k 5 "$seconds" "$@" >"$work/json" 2>"$work/log"; then
    note "$name" "$(one_value "$work/json")"
    printf '%s: %s\n' "$name" "$(tr '\n' ' ' <"$work/json" | cut -c 1-700)"
  else
    echo "$name" >>"$work/failed"
    note "$name" "$(text "failed: $(tail -n 1 "$work/log")")"
    printf 'FAILED %s: %s\n' "$name" "$(tail -n 1 "$work/log")"
  fi
}

# Products with quantized weights by each of their kernels, a process a test. Those of f32 have one way only.
run_quantized() {
  local way suite='' line
  while read -r line; do
    case $line in
      Running\ *) ;;
      *.) suite=$line ;;
      *.\ *) suite=${line%% *} ;;
      *)
        for way in 1 half 0; do
          [[ $way != 0 || $line != *gated* ]] || continue
          [[ $way == 0 || $suite != */0. ]] || continue
          in_parallel attempt "quantized/$way/$suite${line%% *}" 50 env WEFT_QUANTIZED_STREAM=$way "$kernels_test" \
            --gtest_brief=1 --gtest_filter="$suite${line%% *}"
        done
        ;;
    esac
  done < <("$kernels_test" --gtest_list_tests --gtest_filter='CudaQuantized*')
  wait
  echo "quantized: $(grep -c '"quantized/.*"ok"' "$results") tests ok"
}

# A process a suite: after a fault a process can do no more.
run_parity() {
  local suite
  for suite in $("$kernels_test" --gtest_list_tests | sed -n 's|^\([^ ]*\.\).*|\1|p'); do
    [[ -z ${EXCLUDED:-} || ! $suite =~ $EXCLUDED ]] || continue
    [[ $suite != CudaQuantized* || " ${parts[*]} " != *' quantized '* ]] || continue
    in_parallel attempt "parity/${suite%.}" 120 "$kernels_test" --gtest_brief=1 --gtest_filter="$suite*"
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

# verify_bf16 NAME OPTIONS …: what bf16 itself puts out of tolerance fails on the CPU's kernels as well, and is no fault.
verify_bf16() {
  local name=$1 seconds
  shift
  seconds=$(seconds_for 120) || { leave_out "$name" && return; }
  if timeout "$seconds" "$weft" verify --device cuda --threads 2 --dtype bf16 "$@" >"$work/${name//\//_}.log" 2>&1; then
    note "$name" '"ok"'
    echo "$name" >>"$work/verified"
  elif ! seconds=$(seconds_for 120); then
    leave_out "$name"
  elif ! timeout "$seconds" "$weft" verify --device cpu --threads 2 --dtype bf16 "$@" >"$work/${name//\//_}.cpu.log" 2>&1; then
    note "$name" '"beyond what bf16 holds, on the CPU too"'
    echo "$name" >>"$work/beyond_bf16"
  else
    log=$work/${name//\//_}.log
    echo "$name" >>"$work/failed"
    note "$name" "$(text "failed, though not on the CPU: $(grep -m 1 FAIL "$log")")"
    printf 'FAILED %s, which the CPU passes: %s\n' "$name" "$(grep FAIL "$log" | head -n 2 | cut -c 1-300)"
  fi
}

run_goldens() {
  local folder way total=0
  : >"$work/verified" && : >"$work/beyond_bf16"
  for way in ${GOLDEN_WAYS:-tensor_1 bf16 tensor_2}; do
    for folder in "$golden"/seed/*/ "$golden"/hf/*/; do
      folder=${folder%/}
      [[ -f $folder/golden.h5 ]] || continue
      total=$((total + 1))
      local model=$folder check=verify_case tensor=${way#tensor_}
      [[ ! -f $folder/model.weights.h5 ]] || model="$folder/model.weights.h5 --config $folder/config.json"
      [[ $way != bf16 ]] || { check=verify_bf16 && tensor=1; }
      # shellcheck disable=SC2086
      in_parallel $check "golden/$(basename "$folder")/$way" --model $model --golden "$folder/golden.h5" \
        --tensor-parallel "$tensor"
    done
  done
  wait
  echo "goldens: $(wc -l <"$work/verified") of $total; $(wc -l <"$work/beyond_bf16") beyond bf16 on the CPU too"
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

# The NCCL to use: what WEFT_NCCL_LIBRARY names, the bundle's, or the machine's.
find_nccl() {
  local packed=$here/nccl/libnccl.so.2.xz
  [[ -z ${WEFT_NCCL_LIBRARY:-} ]] || { echo "$WEFT_NCCL_LIBRARY" && return; }
  [[ ! -f $packed ]] || { xz -dc "$packed" >"$work/libnccl.so.2" && echo "$work/libnccl.so.2" && return; }
  echo libnccl.so.2
}

# two_ranks NAME COMMAND …: both on the first GPU, with NCCL between them.
two_ranks() {
  local name=$1
  shift
  attempt "nccl/$name" 100 env WEFT_NCCL_LIBRARY="$nccl" NCCL_MULTI_RANK_GPU_ENABLE=1 CUDA_VISIBLE_DEVICES=0 \
    "$mpirun" --allow-run-as-root --oversubscribe --bind-to none -n 2 "$@" || return 1
  [[ $1 != "$weft" ]] || grep -q 'NCCL .* carries tensors' "$log" || {
    echo "nccl/$name" >>"$work/failed"
    echo "FAILED nccl/$name: it was not NCCL that carried the tensors: $(grep -m 1 'by way of the host' "$log")"
    return 1
  }
  echo "two ranks by NCCL on one GPU, $name: ok"
}

# Two ranks share a GPU here, which NCCL can from 2.30 on.
run_nccl() {
  local nccl version folder name
  local ask='import ctypes, sys; v = ctypes.c_int(); ctypes.CDLL(sys.argv[1]).ncclGetVersion(ctypes.byref(v)); print(v.value)'
  nccl=$(find_nccl)
  version=$(python3 -c "$ask" "$nccl" 2>/dev/null || echo 0)
  if [[ $version -lt 23000 ]] || ! nvidia-smi -L >/dev/null 2>&1; then
    note nccl '"skipped"'
    echo "SKIPPED nccl: no GPU, or no NCCL of 2.30 or newer: $nccl says $version; name one in WEFT_NCCL_LIBRARY"
    return
  fi
  note nccl/version "$version"
  # A rank that hangs costs its whole limit, and the next ones would hang too.
  two_ranks communicators "$nccl_test" --gtest_brief=1 || return
  if grep -q 'PASSED.*[^0-9]0 tests' "$log"; then
    echo nccl/communicators >>"$work/failed"
    echo "FAILED nccl/communicators: all of it was skipped: $(grep -m 1 -A 1 'Skipped' "$log" | tail -n 1)"
    return
  fi
  for folder in "$golden"/hf/llama*/ "$golden"/hf/gemma2*/; do
    folder=${folder%/}
    name=$(basename "$folder")
    [[ -f $folder/golden.h5 ]] || continue
    two_ranks "$name" "$weft" verify --device cuda --threads 2 --model "$folder" --golden "$folder/golden.h5" \
      --tensor-parallel 2 || return
  done
  for folder in "$golden"/train/llama*/ "$golden"/train/gemma2*/; do
    folder=${folder%/}
    name=training/$(basename "$folder")
    [[ -f $folder/golden.h5 ]] || continue
    local verify=("$weft" verify --device cuda --threads 2 --model "$folder" --golden "$folder/golden.h5" --run full)
    two_ranks "$name/zero_2" "${verify[@]}" --data-parallel 2 --zero 2 || return
    two_ranks "$name/zero_3" "${verify[@]}" --data-parallel 2 --zero 3 || return
    two_ranks "$name/tensor_2" "${verify[@]}" --tensor-parallel 2 || return
  done
}

# Tests of a process each, those that are small enough for a check of every access to memory.
sanitized=(
  'rows CudaActivation*:CudaArgmax*:CudaElementwise*:CudaSquares*:NormOnCuda*:RopeOnCuda*:TokenShiftOnCuda*'
  'tables CudaEmbedding*:CudaCrossEntropy*:CudaOptimizer*:CudaFactored*:CudaLinear/1.odd_sizes:CudaLinear/1.gated_products'
  'decoding StepGraph*:CudaSample.RunsAsPartOfAGraph:CudaAttentionSplit/1.windows_and_caps:CudaAttention/1.WritesItsCache'
  'quantized CudaQuantizedLinear/1.each_number_of_few_rows:CudaQuantized.products_in_a_step_that_runs_as_a_graph'
  'attention CudaAttention/1.OfMixedLengths:CudaAttention/1.WithSoftCapAndBias:CudaAttention/1.UnderEveryMask'
  'backward AttentionBackwardOnCuda/1.OfHeadDims:AttentionBackwardOnCuda/1.WithSoftCap:AttentionBackwardOnCuda/1.WithWindows'
  'recurrent CudaWkv/1.forward_and_backward:RelativeAttentionOnCuda/1.backward_with_all_terms'
)

# Of SANITIZED, a filter of tests, alone where it is set. SANITIZER_TOOL: racecheck, initcheck or synccheck instead.
run_sanitizer() {
  local group
  command -v compute-sanitizer >/dev/null || { note sanitizer '"skipped"' && echo "SKIPPED sanitizer: it is missing" && return; }
  [[ -z ${SANITIZED:-} ]] || sanitized=("chosen $SANITIZED")
  for group in "${sanitized[@]}"; do
    in_parallel attempt "sanitizer/${group%% *}" 200 env WEFT_QUANTIZED_STREAM=1 compute-sanitizer --error-exitcode 9 \
      --tool "${SANITIZER_TOOL:-memcheck}" --report-api-errors no "$kernels_test" --gtest_brief=1 \
      --gtest_filter="${group#* }"
  done
  wait
  grep -hE 'Invalid|Race|Error:|at 0x' "$work"/sanitizer_*.log | sort | uniq -c | sort -rn | head -n 10
  echo "sanitizer: $(grep -c '"sanitizer/.*"ok"' "$results") of ${#sanitized[@]} groups ok"
}

run_kernels() {
  local part
  for part in attention quantized few_rows products sampling; do
    attempt "kernels/$part" 60 env WEFT_QUANTIZED_STREAM=1 "$kernels_bench" "$part"
    cat "$log"
    note "measured/$part" "$(text "$(cat "$log")")"
  done
}

run_bench() {
  local model batch
  for model in ${DECODE_MODELS:-gemma2-2b gemma2-9b gemma2-27b}; do
    measure "decode/$model" 120 "$weft" bench decode --device cuda --json --model "$configs/models/$model.json"
  done
  measure decode/gemma2-2b/int4 60 env WEFT_QUANTIZED_STREAM=1 "$weft" bench decode --device cuda --json \
    --model "$configs/models/gemma2-2b.json" --quantize int4
  # Beyond 16 sequences products go to cuBLASLt, within the graph too.
  for batch in 16 32; do
    measure "decode/gemma2-2b/batch $batch" 60 "$weft" bench decode --device cuda --json \
      --model "$configs/models/gemma2-2b.json" --batch "$batch"
  done
  measure "train/lora/llama3-8b" 150 "$weft" bench train --device cuda --json --model "$configs/models/llama3-8b.json" \
    --lora 16 --sequence 4096 --recompute "${LORA_RECOMPUTE:-none}" --repetitions 3
  measure "train/full/qwen2-1.5b" 150 "$weft" bench train --device cuda --json --model "$configs/models/qwen2-1.5b.json" \
    --batch "${FULL_BATCH:-4}" --sequence 4096 --recompute "${FULL_RECOMPUTE:-none}" --no-masters --repetitions 3
  measure "train/lora/gemma2-27b" 200 "$weft" bench train --device cuda --json --model "$configs/models/gemma2-27b.json" \
    --lora 16 --sequence 4096 --recompute block --repetitions 2
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
  part_end=$((begin + limits[$part]))
  [[ $part_end -le $budget ]] || part_end=$budget
  [[ $((part_end - begin)) -ge 3 ]] || { leave_out "$part" && continue; }
  "run_$part"
  note "seconds/$part" $((SECONDS - begin))
done
echo "$(wc -l <"$work/failed") failed, $(wc -l <"$work/left_out") left out; $output"
[[ ! -s $work/failed && ! -s $work/left_out ]]
