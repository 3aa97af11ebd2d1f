#!/usr/bin/env bash
# Runs the bundle in an empty Debian 12 root made with debootstrap: nothing of this machine but the
# kernel and loopback. Needs root. The root is kept in build/empty-root for the next time.
#
#   deploy/packaging/test_bundle.sh dist/fathom-VERSION-linux-x86_64.tar.xz
set -euo pipefail
# shellcheck source=deploy/packaging/debian_root.sh
. "$(dirname "$0")/debian_root.sh"
[ $# = 1 ] || fail "name the tarball"
enter_namespaces "$@"

readonly ARCHIVE=$(realpath "$1")
cd "$(dirname "$0")/../.."
readonly ROOT=$PWD/build/empty-root
readonly LOG=$ROOT/tmp/fathomd.log
readonly READY_SECONDS_MAX=60

make_root "$ROOT"
mount_root "$ROOT"

# Elsewhere than where it was unpacked first: it is relocatable.
rm -rf "$ROOT/srv/"*
tar -C "$ROOT/srv" -xf "$ARCHIVE"
mv "$ROOT/srv/"* "$ROOT/srv/moved"
readonly BUNDLE=/srv/moved
"${INSIDE[@]}" "$BUNDLE/bin/fathomd" --version
"${INSIDE[@]}" "$BUNDLE/bin/fathomd" --config "$BUNDLE/configs/fathom.yaml" --check-config \
  >/dev/null
[ -d "$ROOT$BUNDLE/share/fathom/demo-model" ] || { echo "no model in it: programs start"; exit 0; }

# Ports of the kernel's choice, as the log says them: another fathomd may run on this machine.
"${INSIDE[@]}" "$BUNDLE/bin/fathomd" --device cpu --port 0 --grpc-port 0 --admin-port 0 \
  --metrics-port 0 >"$LOG" 2>&1 &
daemon=$!
begin=$(date +%s%N)
until grep -q 'daemon: ready' "$LOG"; do
  kill -0 $daemon 2>/dev/null || { cat "$LOG"; fail "fathomd ended"; }
  [ $(($(date +%s%N) - begin)) -lt $((READY_SECONDS_MAX * 1000000000)) ] ||
    { cat "$LOG"; fail "not ready in $READY_SECONDS_MAX s"; }
  sleep 0.05
done
echo "ready after $((($(date +%s%N) - begin) / 1000000)) ms"
port=$(sed -n 's/.*listener=http port=\([0-9]*\).*/\1/p' "$LOG")
"${INSIDE[@]}" "$BUNDLE/bin/fathomctl" chat --url "http://127.0.0.1:$port" "Tell me a short story."
kill -TERM $daemon
code=0
wait $daemon || code=$?
[ "$code" = 0 ] || { cat "$LOG"; fail "fathomd ended with $code after SIGTERM"; }
echo "the bundle runs in an empty Debian 12 root"
