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
  python3 python3-venv curl openssl xz-utils ca-certificates debootstrap
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

# check_version NAME FOUND LEAST
check_version() {
  [ -n "$2" ] || fail "$1 was not found; at least $3 is needed"
  [ "$(printf '%s\n%s\n' "$3" "$2" | sort -V | head -n 1)" = "$3" ] ||
    fail "$1 is $2; at least $3 is needed (Debian 12 has it; is another one first in PATH?)"
}

check_versions() {
  check_version g++ "$(g++ -dumpfullversion 2>/dev/null)" 12.2
  check_version cmake "$(cmake --version 2>/dev/null | sed -n '1s/.* //p')" 3.25
  check_version ninja "$(ninja --version 2>/dev/null)" 1.11
  check_version protoc "$(protoc --version 2>/dev/null | sed 's/.* //')" 3.21
  check_version grpc++ "$(pkg-config --modversion grpc++ 2>/dev/null)" 1.51
  check_version openssl "$(pkg-config --modversion openssl 2>/dev/null)" 3.0
  if command -v nvcc >/dev/null; then
    check_version nvcc "$(nvcc --version | sed -n 's/.*release \([0-9.]*\),.*/\1/p')" 13.0
  fi
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
