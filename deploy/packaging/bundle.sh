#!/usr/bin/env bash
# make bundle: relocatable tarballs under dist/, with the embedded demo model and without, and
# fathom-gpu-tests.tar.xz, to unpack over either on a GPU host.
#
#   deploy/packaging/bundle.sh [--no-cuda]
#
# A bundle runs on any x86-64 host with glibc 2.36 or later: it brings every shared library but
# glibc's, found by the programs' RPATH ($ORIGIN/../lib). cudart is linked into the CUDA plugin;
# CUDA's other runtime libraries, NCCL and the driver are the GPU host's.
set -euo pipefail
cd "$(dirname "$0")/../.."

readonly DIST=dist
readonly PROGRAMS=(fathomd fathomctl)
# glibc is the host's, and so is everything that belongs to its GPU.
readonly GLIBC='ld-linux-x86-64|libc|libm|libdl|libpthread|librt|libresolv|libanl|libutil'
readonly GPU='libcuda|libcublas|libcublasLt|libnccl|libnvidia-ml'
readonly HOST_LIBRARIES="^($GLIBC|$GPU)\\.so"
readonly GLIBC_MAX=2.36
readonly MODEL_BYTES_MAX=$((60 << 20))
readonly BARE_BYTES_MAX=$((24 << 20))
readonly GPU_TESTS_BYTES_MAX=$((30 << 20))

fail() { echo "bundle.sh: $*" >&2; exit 1; }

preset=cuda
case "${1:-}" in
  "") ;;
  --no-cuda) preset=release ;;
  *) fail "unknown argument '$1' (--no-cuda)" ;;
esac

build() {
  deploy/setup.sh
  mkdir -p build
  cmake --preset "$preset" >"build/$preset.log" 2>&1 || { cat "build/$preset.log"; exit 1; }
  local targets=("${PROGRAMS[@]}")
  [ "$preset" = release ] || targets+=(fathom_cuda gpu_tests)
  ninja -C "build/$preset" -j "${JOBS:-$(nproc)}" "${targets[@]}"
}

# The shared libraries that ELF files need, as paths, glibc's and the GPU's left out.
needed_libraries() {
  local path
  ldd "$@" | sed -n 's/.* => \(\/[^ ]*\) .*/\1/p' | sort -u | while read -r path; do
    [[ $(basename "$path") =~ $HOST_LIBRARIES ]] || echo "$path"
  done
}

# The licences of the Debian packages that libraries came from, to FOLDER/share/licenses. dpkg may
# know a file below /lib, hence the patterns.
copy_licences() {
  local to=$1 library package patterns=()
  shift
  for library in "$@"; do patterns+=("*/$(basename "$(readlink -f "$library")")"); done
  dpkg-query -S "${patterns[@]}" | sed 's/[,:].*//' | sort -u | while read -r package; do
    install -D -m 644 "/usr/share/doc/$package/copyright" "$to/share/licenses/$package/copyright"
  done
}

# add_libraries FOLDER HELD FILE...: what the files need and HELD/lib has not goes to FOLDER/lib.
add_libraries() {
  local to=$1 held=$2 library added=()
  shift 2
  while read -r library; do
    [ ! -f "$held/lib/$(basename "$library")" ] || continue
    install -D -m 644 -s "$library" "$to/lib/$(basename "$library")"
    added+=("$library")
  done < <(needed_libraries "$@")
  [ "${#added[@]}" = 0 ] || copy_licences "$to" "${added[@]}"
}

assemble() {
  local to=$1 from=build/$preset program
  rm -rf "$to"
  mkdir -p "$to/bin" "$to/lib" "$to/share"
  for program in "${PROGRAMS[@]}"; do
    install -m 755 -s "$from/bin/$program" "$to/bin/$program"
  done
  if [ "$preset" = cuda ]; then install -m 644 -s "$from/lib/libfathom_cuda.so" "$to/lib/"; fi
  # shellcheck disable=SC2046 # names of ours
  add_libraries "$to" "$to" "$to"/bin/* $(find "$to/lib" -name '*.so')
  cp -r configs deploy/systemd docs "$to/"
  cp LICENSE README.md CHANGELOG.md "$to/"
}

# No program may take a library from outside of the bundle and of the host's, and no file of it a
# symbol of a later glibc. (Libraries of Debian's are found by the RPATH of the program.)
check_self_contained() {
  local file outside newest
  for file in "$1"/bin/* "$1"/lib/libfathom_*.so; do
    [ -f "$file" ] || continue
    outside=$(needed_libraries "$file" | grep -v "^$PWD/$1/" || true)
    [ -z "$outside" ] || fail "$file still takes from this machine: $outside"
  done
  newest=$(find "$1" -type f \( -path '*/bin/*' -o -name '*.so*' \) -exec objdump -T {} + |
    sed -n 's/.*GLIBC_\([0-9.]*\).*/\1/p' | sort -Vu | tail -n 1)
  [ "$(printf '%s\n%s\n' "$newest" "$GLIBC_MAX" | sort -V | tail -n 1)" = "$GLIBC_MAX" ] ||
    fail "$1 needs glibc $newest, later than $GLIBC_MAX"
}

# The GPU tests lie as in a checkout, so that gpu_test.sh and the programs find the same paths.
assemble_gpu_tests() {
  local to=$1 bundle=$2 from=build/$preset kind name
  rm -rf "$to"
  mkdir -p "$to/bin" "$to/deploy" "$to/share/fathom/demo-model"
  install -m 755 deploy/gpu_test.sh "$to/deploy/"
  ln -s ../share/fathom/demo-model "$to/deploy/demo-model"
  install -m 644 "$from/gpu_tests.txt" "$to/"
  while read -r kind name; do
    case "$kind" in
      test|benchmark) install -m 755 -s "$from/bin/$name" "$to/bin/$name" ;;
      data) mkdir -p "$to/$(dirname "$name")" && cp -r "$name" "$to/$name" ;;
    esac
  done <"$from/gpu_tests.txt"
  add_libraries "$to" "$bundle" "$to"/bin/*
}

# pack FOLDER ARCHIVE BYTES_MAX [NAME]: NAME is the folder's name in the archive. The dictionary
# reaches over several programs, which hold the same kernels.
pack() {
  local epoch bytes folder
  epoch=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct)}
  folder=$(basename "$1")
  tar -C "$(dirname "$1")" --sort=name --owner=0 --group=0 --numeric-owner --mtime="@$epoch" \
    --transform "flags=r;s,^$folder,${4:-$folder}," -cf - "$folder" |
    xz -T1 --lzma2=preset=6,dict=64MiB >"$2"
  bytes=$(stat -c %s "$2")
  echo "$2: $bytes bytes"
  [ "$bytes" -le "$3" ] || fail "$2 is larger than $3 bytes"
}

main() {
  build
  local version name
  version=$("build/$preset/bin/fathomd" --version | awk '{print $2}')
  name=fathom-$version-linux-x86_64
  assemble "$DIST/$name"
  check_self_contained "$DIST/$name"
  pack "$DIST/$name" "$DIST/$name-nomodel.tar.xz" "$BARE_BYTES_MAX"
  if [ "$preset" = cuda ]; then
    assemble_gpu_tests "$DIST/gpu-tests" "$DIST/$name"
    pack "$DIST/gpu-tests" "$DIST/fathom-gpu-tests.tar.xz" "$GPU_TESTS_BYTES_MAX" "$name"
  fi
  mkdir -p "$DIST/$name/share/fathom/demo-model"
  find deploy/demo-model -maxdepth 1 -type f -exec cp {} "$DIST/$name/share/fathom/demo-model/" \;
  pack "$DIST/$name" "$DIST/$name.tar.xz" "$MODEL_BYTES_MAX"
}

main
