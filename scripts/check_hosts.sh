#!/usr/bin/env bash
# Runs Weft on two hosts without having them: network namespaces of this machine with names of their own, joined by a
# virtual cable and reached by ssh, as mpirun reaches hosts. Checks that `weft doctor` sees two hosts, that a model's
# answer is that of one host, that training under way on two hosts ends when one is cut off, on both and with exit code 5
# within 40 s, and that it goes on from its checkpoint afterwards. Root on Linux, with iproute2 and openssh-server; else
# it says that it is skipped.
#
#   scripts/check_hosts.sh
# shellcheck disable=SC2016,SC2317  # functions are called by name, through `step`
set -euo pipefail
cd "$(dirname "$0")/.."
source scripts/lib/steps.sh
num_steps=4

weft=$PWD/${WEFT:-build/release/weft}
data=$PWD/tests/data
names=(weft-host-1 weft-host-2)
port=2222

skip() {
  echo "note: SKIPPED: $1"
  exit 0
}
[[ $(id -u) -eq 0 ]] || skip "needs root for network namespaces"
for program in ip sshd ssh-keygen; do
  PATH=$PATH:/usr/sbin command -v "$program" >/dev/null || skip "needs iproute2 and an SSH server (scripts/install_dependencies.sh --hosts)"
done
ip netns add weft-probe 2>/dev/null || skip "this machine allows no network namespaces"
ip netns del weft-probe

work=$(mktemp -d)
cleanup() {
  for name in "${names[@]}"; do
    for process in $(ip netns pids "$name" 2>/dev/null); do kill -9 "$process" 2>/dev/null || true; done
    ip netns del "$name" 2>/dev/null || true
  done
  ip link del weft-bridge 2>/dev/null || true
  rm -rf "$work"
}
trap cleanup EXIT

# on NUMBER COMMAND …: on that host.
on() {
  local name=${names[$1 - 1]}
  shift
  ip netns exec "$name" unshare --uts bash -c 'hostname "$1"; shift; exec "$@"' bash "$name" "$@"
}

make_hosts() {
  cleanup
  mkdir -p "$work" /run/sshd
  ip link add weft-bridge type bridge
  ip link set weft-bridge up
  ssh-keygen -q -t ed25519 -N '' -f "$work/host_key"
  ssh-keygen -q -t ed25519 -N '' -f "$work/user_key"
  for i in 1 2; do
    local name=${names[i - 1]}
    ip netns add "$name"
    ip link add "weft-cable-$i" type veth peer name eth0 netns "$name"
    ip link set "weft-cable-$i" master weft-bridge up
    ip -n "$name" address add "10.83.0.$i/24" dev eth0
    ip -n "$name" link set eth0 up
    ip -n "$name" link set lo up
    on "$i" /usr/sbin/sshd -f /dev/null -o "Port=$port" -o "HostKey=$work/host_key" -o StrictModes=no -o UsePAM=no \
      -o "AuthorizedKeysFile=$work/user_key.pub" -o PermitRootLogin=prohibit-password -o "PidFile=$work/sshd-$i.pid"
    echo "10.83.0.$i slots=1" >>"$work/hosts"
  done
  export OMPI_MCA_plm_rsh_args="-p $port -i $work/user_key -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o LogLevel=ERROR"
  export OMPI_MCA_btl_tcp_if_include=10.83.0.0/24 OMPI_MCA_oob_tcp_if_include=10.83.0.0/24 OMP_NUM_THREADS=1
}

# both COMMAND …: Weft on both hosts, a rank each, started on the first.
both() {
  on 1 timeout 120 "$weft" launch -n 2 --hostfile "$work/hosts" -- "$@"
}

doctor() {
  both doctor >"$work/doctor" 2>&1
  cat "$work/doctor"
  grep -q '2 ranks on 2 hosts' "$work/doctor"
}

same_answer() {
  local arguments=(--model "$work/model" --ids "1 2 3 4 5" --max-new-tokens 8 --dtype f32 --quiet)
  "$weft" generate "${arguments[@]}" >"$work/one" && both generate "${arguments[@]}" >"$work/two" || return 1
  [[ -s $work/one ]] && diff "$work/one" "$work/two"
}

train() {
  both train "$work/run.textproto" --quiet "$@"
}

cut_off() {
  train --set train.steps=1000000 &
  local job=$! begin status=0
  until compgen -G "$work/run/checkpoints/step-*0" >/dev/null; do sleep 0.2 && kill -0 "$job" || return 1; done
  ip link set weft-cable-2 down
  begin=$SECONDS
  wait "$job" || status=$?
  ip link set weft-cable-2 up
  echo "exit code $status after $((SECONDS - begin)) s"
  [[ $status -eq 5 && $((SECONDS - begin)) -lt 40 ]] || return 1
  for _ in {1..30}; do pgrep -f "$work/run.textproto" >/dev/null || return 0; sleep 1; done
  echo "a rank of the run that was cut off is still there:" && pgrep -fa "$work/run.textproto"
  return 1
}

go_on() {
  local last
  last=$(find "$work/run/checkpoints" -name 'step-*0' | sort | tail -n 1)
  local step=$((10#${last##*step-} + 10))
  train --set "train.steps=$step" && [[ -d $work/run/checkpoints/$(printf 'step-%08d' "$step") ]]
}

make_model() {
  mkdir -p "$work/model"
  cp "$data"/train/text_lm/{config.json,model.safetensors} "$data"/tiny_tokenizer/tokenizer*.json "$work/model"
  cat >"$work/run.textproto" <<TEXT
model { path: "$work/model" }
data { sources { path: "$data/train/text_lm/finetune_text.txt" } sequence_length: 32 }
train { batch_size: 4 learning_rate: 1e-3 schedule { kind: CONSTANT } }
precision { compute: F32 }
checkpoint { every_steps: 10 }
output { directory: "$work/run" tensorboard: false report: false }
TEXT
}

failed=0
# Not through `step`, whose processes would keep what is exported to themselves.
make_hosts
make_model
step "weft doctor on two hosts" doctor || failed=1
step "The same answer on two hosts" same_answer || failed=1
step "Training ends when a host is cut off" cut_off || failed=1
step "Training goes on" go_on || failed=1
exit "$failed"
