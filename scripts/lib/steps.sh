# Numbered steps for the scripts: `step "what it does" command …` prints one line with the time it took, keeps the
# command's output in build/logs/, and shows a progress bar on a terminal. Source it after `cd` to the repository.
# shellcheck shell=bash disable=SC2034,SC2154

num_steps=0    # set by the script that sources this file
step_number=0
last_log= # of the step that ran last
log_folder=build/logs
mkdir -p "$log_folder"

# The bar for the last "[12/150]" (ninja) or "12/150 Test" (ctest) in a log.
progress_bar() {
  local counts percent
  counts=$(tail -c 400 "$1" 2>/dev/null | tr '\r' '\n' | grep -aoE '\[ *[0-9]+/[0-9]+\]|^ *[0-9]+/[0-9]+ Test' | tail -n 1 | tr -dc '0-9/')
  [[ $counts == */* && ${counts#*/} -gt 0 ]] || return 0
  percent=$((100 * ${counts%/*} / ${counts#*/}))
  printf '%-20.*s %3d %% (%s)' $((percent / 5)) '####################' "$percent" "$counts"
}

# On a terminal, redraws the line once a second while process $1 runs; otherwise just waits.
wait_with_bar() {
  local pid=$1 label=$2 log=$3 begin=$SECONDS
  while [[ -t 1 ]] && kill -0 "$pid" 2>/dev/null; do
    printf '\r\033[K%s … %d s  %s' "$label" $((SECONDS - begin)) "$(progress_bar "$log")"
    sleep 1
  done
  wait "$pid"
}

# step NAME COMMAND …: runs the command with its output in a log; on failure prints the log's end. Returns its status.
step() {
  local name=$1 label begin=$SECONDS status=0
  shift
  step_number=$((step_number + 1))
  label="[$step_number/$num_steps] $name"
  last_log="$log_folder/$step_number-$(tr -cs 'a-zA-Z0-9\n' '-' <<<"$name").log"
  [[ -t 1 ]] || printf '%s … ' "$label"
  set -m # a process group of its own, to be ended as a whole
  "$@" >"$last_log" 2>&1 </dev/null &
  step_pid=$!
  set +m
  wait_with_bar "$step_pid" "$label" "$last_log" || status=$?
  step_pid=
  [[ -t 1 ]] && printf '\r\033[K%s … ' "$label"
  if [[ $status -eq 0 ]]; then
    printf '%s\n' "$(step_note "$last_log")$((SECONDS - begin)) s"
  else
    printf 'FAILED after %d s (whole log: %s)\n' $((SECONDS - begin)) "$last_log"
    tail -n "${STEP_LOG_LINES:-80}" "$last_log" | sed 's/^/    /'
  fi
  return "$status"
}

# A command may leave a remark for its step's line: the last output line that begins with "note: ".
step_note() {
  local note
  note=$(grep -a '^note: ' "$1" | tail -n 1 | cut -c 7-)
  [[ -z $note ]] || printf '%s, ' "$note"
}

# Ctrl-C and SIGTERM end the running step as well.
step_pid=
trap '[[ -z $step_pid ]] || kill -- "-$step_pid" 2>/dev/null; exit 130' INT TERM
