#!/usr/bin/env bash
# Installs what is missing, builds, and runs every test and check.
#
#   scripts/test.sh          everything; lint of what the last 4 commits changed
#   scripts/test.sh quick    release build and its tests only
#   scripts/test.sh --again  everything, also the slow checks that already passed on exactly these sources; lint of all
#
# FUZZ_SECONDS=600 fuzzes longer (default 5 a fuzzer). Logs of all steps: build/logs/.
# shellcheck disable=SC2317  # functions are called by name, through `step`
set -uo pipefail
cd "$(dirname "$0")/.." || exit
source scripts/lib/steps.sh

passed=0
failed=0
skipped=0
stamps=build/stamps
mkdir -p "$stamps"

# The tests that run concurrently inside one process, for the thread sanitizer.
tsan_tests='^(thread_communicator|ops|models|checkpoint|generate|serve|train)_test$'

lint_since=(--since HEAD~4)

main() {
  case "${1:-}" in
    "") num_steps=14 ;;
    quick) num_steps=5 ;;
    --again) num_steps=14 && lint_since=() && rm -f "$stamps"/* ;;
    *)
      sed -n '2,8s/^# \{0,1\}//p' "$0"
      [[ $1 == --help ]] && exit 0
      exit 2
      ;;
  esac
  [[ -z ${CI:-} ]] || rm -f "$stamps"/*
  # The CUDA kernels for one kind of GPU: all of them would take three times as long.
  export CUDAARCHS=${CUDAARCHS:-90a}

  # An SSH server is nothing to put on somebody's machine unasked.
  step "Packages" scripts/install_dependencies.sh "$([[ -z ${CI:-} ]] && echo --test || echo --hosts)" || finish "the packages could not be installed"
  step "SmolLM2-135M-Instruct" scripts/fetch_smollm2.sh || echo "    the tests of real weights will be skipped"
  check "Format (clang-format)" check_format
  step "Build (release)" build release || finish "the release build failed"
  test_step "Tests (release)" release
  [[ ${1:-} == quick ]] && finish
  check "README and docs" scripts/check_docs.py build/release/weft
  check "Two hosts" scripts/check_hosts.sh
  once asan sanitize "address and undefined behaviour" asan
  once tsan sanitize "threads" tsan
  once fuzz fuzz
  once tidy check "Lint (clang-tidy)" scripts/clang_tidy.py build/release "${lint_since[@]}"
  finish
}

our_sources() {
  find kernels src launcher tests -type f '(' -name '*.cpp' -o -name '*.h' -o -name '*.inl' -o -name '*.cu' -o -name '*.cuh' ')' -print0
}

check_format() {
  our_sources | xargs -0 clang-format --dry-run -Werror
}

# build PRESET [TARGET …]
build() {
  local preset=$1
  shift
  cmake --preset "$preset" && cmake --build --preset "$preset" --target "${@:-all}"
}

# check NAME COMMAND …: a step that counts as one test.
check() {
  if step "$@"; then passed=$((passed + 1)); else failed=$((failed + 1)); fi
}

# test_step NAME PRESET [ctest option …]: a step that counts as many tests as ctest ran.
test_step() {
  local name=$1 preset=$2 total bad
  shift 2
  step "$name" run_ctest "$preset" "$@"
  read -r total bad < <(sed -nE 's/.*tests passed, ([0-9]+) tests failed out of ([0-9]+).*/\2 \1/p' "$last_log" | tail -n 1)
  if [[ -z ${total:-} ]]; then
    failed=$((failed + 1))
  else
    passed=$((passed + total - bad)) failed=$((failed + bad))
  fi
}

run_ctest() {
  local preset=$1
  shift
  # Threads that spin while they wait would take the processors from the other ranks of a test.
  export OMP_WAIT_POLICY=passive
  export ASAN_OPTIONS=detect_leaks=1:allocator_may_return_null=1 UBSAN_OPTIONS=print_stacktrace=1
  export LSAN_OPTIONS="suppressions=$PWD/tests/support/lsan.supp:print_suppressions=0"
  export TSAN_OPTIONS="suppressions=$PWD/tests/support/tsan.supp:halt_on_error=1:second_deadlock_stack=1"
  # The thread sanitizer of GCC 12 cannot place its shadow memory where addresses are randomised by 32 bits.
  local without_randomization=()
  [[ $preset != tsan ]] || ! setarch -R true 2>/dev/null || without_randomization=(setarch -R)
  "${without_randomization[@]}" ctest --test-dir "build/$preset" --output-on-failure --no-tests=error -j 2 "$@" &&
    echo "note: $(ctest --test-dir "build/$preset" -N "$@" | sed -n 's/^Total Tests: //p') tests"
}
# once NAME COMMAND …: skips a slow part that already passed on exactly these sources.
once() {
  local name=$1 stamp before=$failed
  shift
  stamp="$stamps/$name-$(source_hash)"
  if [[ -e $stamp ]]; then
    step_number=$((step_number + $(steps_of "$name")))
    skipped=$((skipped + 1))
    printf '[%d/%d] %s: passed on these sources on %s\n' "$step_number" "$num_steps" "$name" "$(date -r "$stamp" '+%F %R')"
    return
  fi
  "$@"
  [[ $failed -gt $before ]] || touch "$stamp"
}

steps_of() {
  case "$1" in tidy) echo 1 ;; *) echo 2 ;; esac
}

source_hash() {
  find CMakeLists.txt CMakePresets.json cmake kernels src launcher tests configs scripts .clang-tidy -type f -print0 |
    sort -z | xargs -0 sha256sum | sha256sum | cut -c 1-16
}

# sanitize WHAT PRESET: builds with the preset's sanitizers and runs the tests that suit them.
sanitize() {
  local what=$1 preset=$2
  step "Build ($what sanitizer)" "build_$preset" || { failed=$((failed + 1)) && return; }
  case "$preset" in
    asan) test_step "Tests ($what sanitizer)" asan -LE heavy ;;
    tsan) test_step "Tests ($what sanitizer)" tsan -R "$tsan_tests" -E _ranks_ ;;
  esac
}

# build_tests PRESET ctest-option …: the tests that ctest would run.
build_tests() {
  local preset=$1 targets
  shift
  cmake --preset "$preset" || return
  mapfile -t targets < <(ctest --test-dir "build/$preset" -N "$@" |
    sed -nE 's/^ *Test *#[0-9]+: ([^ ]*)$/\1/p' | sed -E 's/_ranks_[0-9]+$//' | sort -u)
  cmake --build --preset "$preset" --target "${targets[@]}"
}

# Some tests start the program, and depend on it.
build_asan() {
  build_tests asan -LE heavy
}

# Only the concurrent tests: MPI is not instrumented, so tests under mpirun would report its races.
build_tsan() {
  build_tests tsan -R "$tsan_tests" -E _ranks_
}

fuzz() {
  step "Build (fuzzers)" build fuzz fuzzers || { failed=$((failed + 1)) && return; }
  check "Fuzz, ${FUZZ_SECONDS:-5} s each" scripts/fuzz.sh
}

# Prints the sum; a runner of this script may look for its last line.
finish() {
  [[ $# -eq 0 ]] || { echo "Stopped: $1" && failed=$((failed + 1)); }
  [[ $skipped -eq 0 ]] || echo "$skipped slow parts were skipped, as nothing changed since they passed (--again runs them)."
  echo "Took $((SECONDS / 60)) min $((SECONDS % 60)) s."
  echo "$passed passed, $failed failed"
  [[ $failed -eq 0 && $passed -gt 0 ]]
  exit
}

main "$@"
