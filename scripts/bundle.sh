#!/usr/bin/env bash
# Packs a build for a machine with a GPU and a driver but without our libraries: weft, the CUDA tests, the shared
# libraries that they need beyond glibc and CUDA, Open MPI's parts, shapes, scripts/gpu_check.sh, and goldens.
#
#   scripts/bundle.sh [--build build/release] [--golden DIR …] [--nccl libnccl.so.2.xz] OUTPUT.tar.xz
#
# There: tar -xf OUTPUT.tar.xz && weft-bundle/gpu_check.sh
set -euo pipefail
cd "$(dirname "$0")/.."

build=build/release
golden=()
nccl=
output=
while [[ $# -gt 0 ]]; do
  case "$1" in
    --build) build=$2 && shift 2 ;;
    --golden) golden+=("$2") && shift 2 ;;
    --nccl) nccl=$2 && shift 2 ;;
    --help) sed -n '2,7s/^# \{0,1\}//p' "$0" && exit 0 ;;
    *) output=$1 && shift ;;
  esac
done
[[ -n $output ]] || { sed -n '2,7s/^# \{0,1\}//p' "$0" && exit 2; }

stage=$(mktemp -d)
trap 'rm -rf "$stage"' EXIT
bundle=$stage/weft-bundle
mkdir -p "$bundle"/{bin,lib,golden} "$bundle/configs"

programs=("$build/weft" "$build/tests/cuda/cuda_kernels_test" "$build/tests/parallel/gpu_communicator_test"
  "$build/tests/parallel/gpu_nccl_test" "$build/tests/cuda/cuda_bench")
# Not all of them belong to a plain build, and an old one would be measured in place of the present code.
cmake --build "$build" --target "${programs[@]##*/}" >&2
for program in "${programs[@]}"; do
  strip -o "$bundle/bin/$(basename "$program")" "$program"
done
cp -r configs/models "$bundle/configs/"
cp scripts/gpu_check.sh "$bundle/"
[[ -z $nccl ]] || { mkdir "$bundle/nccl" && cp "$nccl" "$bundle/nccl/libnccl.so.2.xz"; }
[[ ! -d scripts/peers ]] || cp -r scripts/peers "$bundle/"

# Open MPI finds its parts by OPAL_PREFIX, in the places that the distribution gave them.
openmpi=$(dirname "$(ldconfig -p | sed -n 's/.*libmpi\.so\.[0-9]* .*=> //p' | head -n 1)")/openmpi
mkdir -p "$bundle/mpi$openmpi/lib" "$bundle/mpi/usr/bin" "$bundle/mpi/usr/share"
cp -r "$openmpi"/lib/openmpi* "$bundle/mpi$openmpi/lib/"
cp -r /usr/share/openmpi "$bundle/mpi/usr/share/"
for program in mpirun orted; do cp "$(readlink -f "$(command -v $program)")" "$bundle/mpi/usr/bin/$program"; done

# What a bare machine has itself: glibc's parts, the driver, and CUDA's libraries, which are loaded when needed.
bare='^(linux-vdso|ld-linux|libc|libm|libdl|librt|libpthread|libresolv|libcuda)[.-]'
{
  find "$bundle/bin" "$bundle/mpi/usr/bin" -type f
  find "$bundle/mpi" -name '*.so' -not -name '*ofi*' -not -name '*psm*' -not -name '*ucx*' -not -name '*verbs*'
} | xargs -n 1 ldd 2>/dev/null | awk '$2 == "=>" && $3 ~ /^\// {print $1, $3}' | sort -u |
  while read -r name path; do
    [[ $name =~ $bare ]] || cp -L "$path" "$bundle/lib/$name"
  done
find "$bundle/mpi" '(' -name '*ofi*' -o -name '*psm*' -o -name '*ucx*' -o -name '*verbs*' ')' -delete

for folder in "${golden[@]}"; do
  cp -r "$folder" "$bundle/golden/"
done
find "$bundle/golden" '(' -name ckpt -o -name '*.py' -o -name '*keras33*' ')' -prune -exec rm -rf {} +

mkdir -p "$(dirname "$output")"
tar -C "$stage" -cf - weft-bundle | xz -3 -T0 >"$output"
echo "$output: $(du -h "$output" | cut -f 1)"
