#!/usr/bin/env bash
# make bundle: relocatable tarballs under dist/, with the embedded demo model and without.
#
#   deploy/packaging/bundle.sh [--no-cuda]
#
# A bundle runs on any x86-64 host with glibc 2.36 or later: it brings every shared library but
# glibc's, found by the programs' RPATH ($ORIGIN/../lib). CUDA's runtime libraries, NCCL and the
# driver are the GPU host's.
set -euo pipefail
cd "$(dirname "$0")/../.."

readonly DIST=dist
readonly PROGRAMS=(fathomd fathomctl)
# glibc is the host's, and so is everything that belongs to its GPU.
readonly GLIBC='ld-linux-x86-64|libc|libm|libdl|libpthread|librt|libresolv|libanl|libutil'
readonly GPU='libcuda|libcudart|libcublas|libcublasLt|libnccl|libnvidia-ml'
readonly HOST_LIBRARIES="^($GLIBC|$GPU)\\.so"
readonly MODEL_BYTES_MAX=$((60 << 20))
readonly BARE_BYTES_MAX=$((24 << 20))

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
  [ "$preset" = release ] || targets+=(fathom_cuda)
  ninja -C "build/$preset" "${targets[@]}"
}

# The shared libraries that ELF files need, as paths, glibc's and the GPU's left out.
needed_libraries() {
  local path
  ldd "$@" | sed -n 's/.* => \(\/[^ ]*\) .*/\1/p' | sort -u | while read -r path; do
    [[ $(basename "$path") =~ $HOST_LIBRARIES ]] || echo "$path"
  done
}

# The licence of the Debian package that a library came from. dpkg may know the file below /lib.
copy_licence() {
  local package
  package=$(dpkg-query -S "*/$(basename "$(readlink -f "$1")")" | sed -n '1s/[,:].*//p')
  install -D -m 644 "/usr/share/doc/$package/copyright" "$2/share/licenses/$package/copyright"
}

assemble() {
  local to=$1 from=build/$preset program library
  rm -rf "$to"
  mkdir -p "$to/bin" "$to/lib" "$to/share"
  for program in "${PROGRAMS[@]}"; do
    install -m 755 -s "$from/bin/$program" "$to/bin/$program"
  done
  if [ -f "$from/lib/libfathom_cuda.so" ]; then
    install -m 644 -s "$from/lib/libfathom_cuda.so" "$to/lib/"
  fi
  needed_libraries "$to"/bin/* $(find "$to/lib" -name '*.so') | while read -r library; do
    case "$library" in "$PWD"/*) continue ;; esac
    install -m 644 -s "$library" "$to/lib/$(basename "$library")"
    copy_licence "$library" "$to"
  done
  cp -r configs deploy/systemd docs "$to/"
  cp LICENSE README.md CHANGELOG.md "$to/"
}

# No file of the bundle may look for a library outside of it and of the host's.
check_self_contained() {
  local program outside
  for program in "${PROGRAMS[@]}"; do
    outside=$(needed_libraries "$1/bin/$program" | grep -v "^$PWD/$1/" || true)
    [ -z "$outside" ] || fail "$program still takes from this machine: $outside"
  done
}

# pack FOLDER ARCHIVE BYTES_MAX
pack() {
  local epoch
  epoch=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct)}
  tar -C "$(dirname "$1")" --sort=name --owner=0 --group=0 --numeric-owner --mtime="@$epoch" \
    -cf - "$(basename "$1")" | xz -6 -T0 >"$2"
  local bytes
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
  mkdir -p "$DIST/$name/share/fathom/demo-model"
  find deploy/demo-model -maxdepth 1 -type f -exec cp {} "$DIST/$name/share/fathom/demo-model/" \;
  pack "$DIST/$name" "$DIST/$name.tar.xz" "$MODEL_BYTES_MAX"
}

main
