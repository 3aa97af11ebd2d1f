#!/usr/bin/env bash
# What a newcomer does, on a machine with none of the packages: a fresh clone of this checkout's
# commit in a minimal Debian 12 root made with debootstrap, `make run` (an answer is streamed, a
# second request is served) and `make test`. Needs root and, for the packages, the network; building
# and testing have loopback alone. Prints the times of setup (downloads), build and tests.
#
#   deploy/packaging/test_fresh.sh [--short] [--keep]
#
#   --short  only setup, configuring and one small target: tries this script itself
#   --keep   keep build/fresh-root (some gigabytes); it is made anew each time all the same
#
# The clone takes the tokenizers from ../shared/tokenizers or FATHOM_TOKENIZERS, as tests do.
# JOBS: how many compilers run at once.
set -euo pipefail
# shellcheck source=deploy/packaging/debian_root.sh
. "$(dirname "$0")/debian_root.sh"
enter_namespaces "$@"
cd "$(dirname "$0")/../.."

readonly ROOT=$PWD/build/fresh-root
readonly CLONE=/srv/fathom
readonly LOG=$ROOT/tmp/run.log
readonly TOKENIZERS=${FATHOM_TOKENIZERS:-../shared/tokenizers}
readonly JOBS=${JOBS:-$(nproc)}
readonly NETWORK_VARIABLES='https?_proxy|no_proxy|ssl_cert_file|pip_cert|pip_proxy|pip_[a-z_]*url'
short=0
keep=0
for argument in "$@"; do
  case "$argument" in
    --short) short=1 ;;
    --keep) keep=1 ;;
    *) fail "unknown argument '$argument' (--short, --keep)" ;;
  esac
done
report=()

# timed NAME COMMAND...
timed() {
  local name=$1 begin=$SECONDS
  shift
  "$@"
  report+=("$(printf '%-28s %4d s' "$name" $((SECONDS - begin)))")
}

# How this machine reaches its mirrors (sources, proxies, authorities, pip's settings) is copied at
# run time and is no part of the repository.
carry_network() {
  local path to
  rm -f "$ROOT/etc/apt/sources.list" # debootstrap's: this machine's sources name the same
  for path in /etc/resolv.conf /etc/hosts /etc/pip.conf /etc/apt/sources.list \
    /etc/apt/sources.list.d /etc/apt/auth.conf.d /etc/apt/keyrings /usr/share/keyrings \
    /usr/local/share/ca-certificates /etc/ssl/certs; do
    [ -e "$path" ] || continue
    to=$ROOT$(dirname "$path")
    mkdir -p "$to"
    cp -rL "$path" "$to/"
  done
  find /etc/apt/apt.conf.d -type f ! -name 'docker-*' \
    -exec grep -liE 'proxy|acquire' {} + | xargs -r cp -t "$ROOT/etc/apt/apt.conf.d/"
  env | grep -iE "^($NETWORK_VARIABLES)=" >"$ROOT/tmp/network.env" || true
}

# The commands of a newcomer, in the clone, with the network.
online() {
  local settings=()
  mapfile -t settings <"$ROOT/tmp/network.env"
  "${INSIDE[@]}" "${settings[@]}" JOBS="$JOBS" DEBIAN_FRONTEND=noninteractive sh -c \
    "cd $CLONE && $1"
}

# The same with no network but loopback: a checkout builds and tests without.
offline() {
  unshare --net sh -c 'ip link set lo up && exec "$@"' sh \
    "${INSIDE[@]}" JOBS="$JOBS" FATHOM_REQUIRE_TOKENIZERS=1 sh -c "cd $CLONE && $1"
}

clone() {
  git clone --quiet --no-local . "$ROOT$CLONE"
  mkdir -p "$ROOT$CLONE/../shared"
  cp -r "$TOKENIZERS" "$ROOT$CLONE/../shared/tokenizers"
}

# Debian's minimal root has no make; it is all that a newcomer installs by hand.
setup() {
  online 'apt-get -qq update && apt-get -qq install -y --no-install-recommends make >/dev/null'
  online 'make setup-tests'
}

# `make run` in the background, with no network: its answer, then a request of ours from inside.
serve() {
  offline 'exec make run' >"$LOG" 2>&1 &
  local make=$! begin=$SECONDS
  until grep -q '^Serving on' "$LOG"; do
    kill -0 $make 2>/dev/null || { tail -n 40 "$LOG"; fail "make run ended"; }
    sleep 0.5
  done
  report+=("$(printf '%-28s %4d s' 'make run, to its answer' $((SECONDS - begin)))")
  sed -n '/^> /,$p' "$LOG"
  local daemon
  daemon=$(pgrep -of 'bin/fathomd' || true)
  [ -n "$daemon" ] || fail "fathomd does not run"
  nsenter --target "$daemon" --net "${INSIDE[@]}" curl -fsS http://127.0.0.1:8000/v1/completions \
    -H 'content-type: application/json' \
    -d '{"prompt": "Once there was a", "max_tokens": 16}' || fail "a second request failed"
  echo
  kill -TERM "$daemon"
  local code=0
  wait $make || code=$?
  [ "$code" = 0 ] || { tail -n 20 "$LOG"; fail "make run ended with $code after SIGTERM"; }
}

main() {
  [ -d "$TOKENIZERS" ] || fail "no tokenizers at $TOKENIZERS (or FATHOM_TOKENIZERS)"
  rm -rf "$ROOT"
  timed "debootstrap" make_root "$ROOT"
  mount_root "$ROOT"
  carry_network
  clone
  timed "setup (downloads)" setup
  if [ "$short" = 1 ]; then
    timed "configure" offline 'make configure'
    timed "one target" offline 'ninja -C build/release fathom_config_gen'
  else
    serve
    timed "make test" offline 'make test'
  fi
  printf '%s, %s compilers at once:\n' "Debian $("${INSIDE[@]}" cat /etc/debian_version)" "$JOBS"
  printf '  %s\n' "${report[@]}"
  [ "$keep" = 1 ] || { umount "$ROOT/dev/pts" "$ROOT/dev/shm" "$ROOT/proc"; rm -rf "$ROOT"; }
}

main
