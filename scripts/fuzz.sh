#!/usr/bin/env bash
# Runs every fuzzer of build/fuzz/fuzzers/ (cmake --build --preset fuzz --target fuzzers), two at once.
#
#   scripts/fuzz.sh [NAME …]        all, or those named
#   FUZZ_SECONDS=600 FUZZ_SEED=0 scripts/fuzz.sh checkpoint_safetensors
#
# The mutations follow FUZZ_SEED (default 1, so that a red run can be repeated; 0 draws one: use it to look for more).
# Inputs that crash or hang land in build/fuzz/findings/; run build/fuzz/fuzzers/NAME on one to see it again, and
# keep it in tests/fuzz/corpus/NAME/ once it is fixed. New interesting inputs collect in build/fuzz/corpus/NAME/.
set -euo pipefail
cd "$(dirname "$0")/.."

seconds=${FUZZ_SECONDS:-5}
seed=${FUZZ_SEED:-1}
if [[ $# -gt 0 ]]; then
  names=("$@")
else
  mapfile -t names < <(find build/fuzz/fuzzers -maxdepth 1 -type f -executable -printf '%f\n' | sort)
fi
if [[ ${#names[@]} -eq 0 ]]; then
  echo "No fuzzers in build/fuzz/fuzzers: cmake --preset fuzz && cmake --build --preset fuzz --target fuzzers" >&2
  exit 1
fi
mkdir -p build/fuzz/findings build/fuzz/logs

run_one() {
  local name=$1 log=build/fuzz/logs/$1.log begin=$SECONDS
  mkdir -p "build/fuzz/corpus/$name"
  local limits=(-seed="$seed" -max_total_time="$seconds" -timeout=10 -rss_limit_mb=2048 -malloc_limit_mb=1024)
  if "build/fuzz/fuzzers/$name" "${limits[@]}" -print_final_stats=1 -artifact_prefix="build/fuzz/findings/$name-" \
    "build/fuzz/corpus/$name" "tests/fuzz/corpus/$name" >"$log" 2>&1 </dev/null; then
    printf '%s: passed, %s runs in %d s\n' "$name" "$(sed -n 's/^stat::number_of_executed_units: *//p' "$log")" $((SECONDS - begin))
  else
    printf '%s: FAILED\n' "$name"
    grep -avE '^#[0-9]|NEW_FUNC' "$log" | tail -n 40 | sed 's/^/    /'
    return 1
  fi
}
export -f run_one
export seconds seed

export ASAN_OPTIONS=${ASAN_OPTIONS:-allocator_may_return_null=1:detect_leaks=1}
export UBSAN_OPTIONS=${UBSAN_OPTIONS:-print_stacktrace=1}
printf '%s\n' "${names[@]}" | xargs -P 2 -I NAME bash -c 'run_one NAME'
