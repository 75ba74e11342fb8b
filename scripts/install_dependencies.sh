#!/usr/bin/env bash
# Installs the Debian 12 packages that Weft needs, those that are missing; a second run takes a moment.
#
#   scripts/install_dependencies.sh           what building and running needs
#   scripts/install_dependencies.sh --test    also what the tests and the checks need
#   scripts/install_dependencies.sh --hosts   and what scripts/check_hosts.sh needs, an SSH server
set -euo pipefail

packages=(
  g++ cmake ninja-build pkg-config ccache git ca-certificates
  libcli11-dev libfmt-dev libspdlog-dev nlohmann-json3-dev
  libprotobuf-dev protobuf-compiler
  libopenmpi-dev openmpi-bin
  libhdf5-dev libsentencepiece-dev libdnnl-dev libutf8proc-dev libpcre2-dev libxxhash-dev libcpp-httplib-dev
  libgtest-dev libgmock-dev
  python3 python3-pip python3-venv unzip
)
test_packages=(
  clang clang-tidy clang-format libclang-rt-14-dev libomp-dev
  hdf5-tools xz-utils util-linux procps
)

case "${1:-}" in
  "") ;;
  --test) packages+=("${test_packages[@]}") ;;
  --hosts) packages+=("${test_packages[@]}" iproute2 openssh-server openssh-client) ;;
  *)
    sed -n '2,6s/^# \{0,1\}//p' "$0"
    [[ $1 == --help ]] && exit 0
    exit 2
    ;;
esac

if ! command -v dpkg-query >/dev/null; then
  echo "install_dependencies.sh knows Debian's package manager only; install by hand: ${packages[*]}" >&2
  exit 1
fi

# Optional, and of use only beside cuDNN's own headers.
fetch_cudnn_frontend() {
  compgen -G '/usr/local/cuda*/include/cudnn.h' >/dev/null || [[ -f /usr/include/cudnn.h ]] || return 0
  "$(dirname "$0")/fetch_cudnn_frontend.sh" >/dev/null ||
    echo "SKIPPED: the headers of cuDNN's frontend could not be fetched; the build has no cuDNN" >&2
}

missing=()
installed=$(dpkg-query --show --showformat='${db:Status-Status} ${Package}\n' | sed -n 's/^installed //p')
for package in "${packages[@]}"; do
  grep -qxF "$package" <<<"$installed" || missing+=("$package")
done
if [[ ${#missing[@]} -eq 0 ]]; then
  echo "All ${#packages[@]} packages are installed."
  fetch_cudnn_frontend
  exit 0
fi

as_root=()
if [[ $(id -u) -ne 0 ]]; then
  if ! command -v sudo >/dev/null; then
    echo "Run this as root, or install sudo. Missing packages: ${missing[*]}" >&2
    exit 1
  fi
  as_root=(sudo)
fi

echo "[1/2] Updating the package lists"
"${as_root[@]}" apt-get -qq update
echo "[2/2] Installing ${#missing[@]} packages: ${missing[*]}"
"${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -qq install --yes --no-install-recommends "${missing[@]}" </dev/null
echo "note: installed ${#missing[@]} packages"
fetch_cudnn_frontend
