#!/usr/bin/env bash
# Installs what building and testing Fathom needs on Debian 12, and checks the versions.
# Does nothing, quickly, when all of it is there.
#
#   deploy/setup.sh [--yes] [--tests]
#
#   --yes    do not stop where a package of yours would be removed
#   --tests  also make .venv with the Python clients that `make test` drives the server with
set -euo pipefail
cd "$(dirname "$0")/.."

readonly PACKAGES=(
  g++ cmake ninja-build ccache make git pkg-config
  libboost1.81-dev nlohmann-json3-dev
  libgrpc++-dev libgrpc-dev protobuf-compiler protobuf-compiler-grpc libprotobuf-dev libprotoc-dev
  libabsl-dev libc-ares-dev libre2-dev zlib1g-dev libssl-dev
  libspdlog-dev libfmt-dev prometheus-cpp-dev libyaml-cpp-dev libcli11-dev
  liblzma-dev libpcre2-dev libutf8proc-dev libxxhash-dev libsystemd-dev
  libgtest-dev libgmock-dev libbenchmark-dev
  clang-19 libclang-rt-19-dev
  python3 python3-venv curl openssl xz-utils ca-certificates debootstrap iproute2
)

assume_yes=0
tests=0
for argument in "$@"; do
  case "$argument" in
    --yes) assume_yes=1 ;;
    --tests) tests=1 ;;
    *) echo "setup.sh: unknown argument '$argument' (--yes, --tests)" >&2; exit 2 ;;
  esac
done

fail() { echo "setup.sh: $*" >&2; exit 1; }

is_installed() {
  [ "$(dpkg-query -W -f '${db:Status-Status}' "$1" 2>/dev/null)" = installed ]
}

as_root() {
  if [ "$(id -u)" = 0 ]; then "$@"; else sudo "$@"; fi
}

# libboost1.81-dev conflicts with the default 1.74: apt would remove it without a word.
check_boost() {
  is_installed libboost1.74-dev || return 0
  is_installed libboost1.81-dev && return 0
  echo "setup.sh: libboost1.74-dev is installed; Debian's libboost1.81-dev, which Fathom needs," >&2
  echo "          conflicts with it, so that apt would remove it and what depends on it." >&2
  [ "$assume_yes" = 1 ] || fail "nothing was changed; run it again with --yes to go on"
}

install_missing() {
  command -v dpkg-query >/dev/null || fail "needs Debian 12; see docs/dependencies.md"
  local missing=() package
  for package in "${PACKAGES[@]}"; do
    is_installed "$package" || missing+=("$package")
  done
  [ "${#missing[@]}" -gt 0 ] || return 0
  check_boost
  if [ "$(id -u)" != 0 ] && ! command -v sudo >/dev/null; then
    fail "not root, and no sudo: install these yourself: ${missing[*]}"
  fi
  echo "setup.sh: installing ${missing[*]}"
  as_root apt-get -qq update
  as_root env DEBIAN_FRONTEND=noninteractive \
    apt-get -qq install -y --no-install-recommends "${missing[@]}" >/dev/null
}

# What was found by `make` must be what Debian has: /usr/local or a PATH of yours may be first.
# The libraries' names are pkg-config's.
readonly TOOLS_LEAST=(
  'g++ 12.2 g++ -dumpfullversion'
  'cmake 3.25 cmake --version'
  'ninja 1.11 ninja --version'
  'ccache 4.7 ccache --version'
  'protoc 3.21 protoc --version'
  'python3 3.11 /usr/bin/python3 --version'
)
readonly LIBRARIES_LEAST=(
  'grpc++ 1.51' 'protobuf 3.21' 'openssl 3.0' 'nlohmann_json 3.11' 'spdlog 1.10' 'fmt 9.1'
  'yaml-cpp 0.7' 'CLI11 2.1' 'prometheus-cpp-core 1.0' 'libpcre2-8 10.40' 'libutf8proc 2.6'
  'libxxhash 0.8' 'libsystemd 252' 'liblzma 5.4' 'gtest 1.12' 'benchmark 1.7'
)

# check_version NAME FOUND LEAST
check_version() {
  [ -n "$2" ] || fail "$1 was not found; at least $3 is needed"
  [ "$(printf '%s\n%s\n' "$3" "$2" | sort -V | head -n 1)" = "$3" ] ||
    fail "$1 is $2; at least $3 is needed (Debian 12 has it; is another one found first?)"
}

# The first number with a dot in what a command says.
version_said() { "$@" 2>/dev/null | grep -oE '[0-9]+(\.[0-9]+)+' | head -n 1 || true; }

check_versions() {
  local name least command
  while read -r name least command; do
    # shellcheck disable=SC2086 # words of a command
    check_version "$name" "$(version_said $command)" "$least"
  done < <(printf '%s\n' "${TOOLS_LEAST[@]}")
  while read -r name least; do
    check_version "$name" "$(pkg-config --modversion "$name" 2>/dev/null || true)" "$least"
  done < <(printf '%s\n' "${LIBRARIES_LEAST[@]}")
  check_version Boost "$(sed -n 's/#define BOOST_LIB_VERSION "\(.*\)"/\1/p' \
    /usr/include/boost/version.hpp 2>/dev/null | tr _ .)" 1.81
  check_nvcc
}

# Only the cuda preset needs it (cmake refuses an old one there), so that this is but said.
check_nvcc() {
  local nvcc found
  nvcc=$(command -v nvcc || echo /usr/local/cuda/bin/nvcc)
  [ -x "$nvcc" ] || return 0
  found=$("$nvcc" --version | sed -n 's/.*release \([0-9.]*\),.*/\1/p')
  [ "$(printf '%s\n13.0\n' "$found" | sort -V | head -n 1)" = 13.0 ] ||
    echo "setup.sh: $nvcc is CUDA $found; the cuda preset needs 13.0 or later" >&2
}

# A venv of Debian's own python3: one from elsewhere may be first in PATH.
make_venv() {
  local stamp=.venv/requirements.txt
  cmp -s tests/requirements.txt "$stamp" && return 0
  echo "setup.sh: making .venv for the tests"
  rm -rf .venv
  /usr/bin/python3 -m venv .venv
  .venv/bin/pip install --quiet --disable-pip-version-check -r tests/requirements.txt
  cp tests/requirements.txt "$stamp"
}

install_missing
check_versions
[ "$tests" = 0 ] || make_venv
