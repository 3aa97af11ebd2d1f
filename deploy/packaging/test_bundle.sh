#!/usr/bin/env bash
# Runs the bundle in an empty Debian 12 root made with debootstrap: nothing of this machine but the
# kernel and loopback. Needs root. The root is kept in build/empty-root for the next time.
#
#   deploy/packaging/test_bundle.sh dist/fathom-VERSION-linux-x86_64.tar.xz
set -euo pipefail

readonly ARCHIVE=$(realpath "$1")
cd "$(dirname "$0")/../.."
readonly ROOT=$PWD/build/empty-root

fail() { echo "test_bundle.sh: $*" >&2; exit 1; }

[ "$(id -u)" = 0 ] || fail "needs root, for chroot"
if [ ! -x "$ROOT/bin/sh" ]; then
  command -v debootstrap >/dev/null || fail "needs debootstrap"
  # The mirror that this machine installs from; none: debootstrap's own.
  mirror=$(cat /etc/apt/sources.list /etc/apt/sources.list.d/*.{list,sources} 2>/dev/null |
    sed -n 's/^deb [^h]*\(http[^ ]*\) bookworm .*/\1/p; s/^URIs: //p' | head -n 1 || true)
  rm -rf "$ROOT"
  debootstrap --variant=minbase bookworm "$ROOT" ${mirror:+"$mirror"} >/dev/null
fi

# The loader finds $ORIGIN through /proc/self/exe, as fathomd finds its model.
mountpoint -q "$ROOT/proc" || mount -t proc proc "$ROOT/proc"
trap 'umount "$ROOT/proc"' EXIT

rm -rf "$ROOT/srv/"*
tar -C "$ROOT/srv" -xf "$ARCHIVE"
bundle=/srv/$(ls "$ROOT/srv")
inside() { chroot "$ROOT" /usr/bin/env -i PATH=/usr/bin:/bin "$@"; }

# Elsewhere than where it was unpacked first: it is relocatable.
mv "$ROOT$bundle" "$ROOT/srv/moved"
bundle=/srv/moved
inside "$bundle/bin/fathomd" --version
inside "$bundle/bin/fathomd" --config "$bundle/configs/fathom.yaml" --check-config >/dev/null
[ -d "$ROOT$bundle/share/fathom/demo-model" ] || { echo "no model in it: programs start"; exit 0; }

log=$(mktemp)
chroot "$ROOT" /usr/bin/env -i "$bundle/bin/fathomd" --device cpu --port 18000 --grpc-port 0 \
  --admin-port 0 --metrics-port 0 >"$log" 2>&1 &
daemon=$!
trap 'kill -TERM $daemon 2>/dev/null || true; umount -l "$ROOT/proc"' EXIT
begin=$(date +%s%N)
until curl -fsS -o /dev/null http://127.0.0.1:18000/health/ready 2>/dev/null; do
  kill -0 $daemon 2>/dev/null || { cat "$log"; fail "fathomd ended"; }
  [ $(($(date +%s%N) - begin)) -lt 60000000000 ] || { cat "$log"; fail "not ready in 60 s"; }
  sleep 0.05
done
echo "ready after $((($(date +%s%N) - begin) / 1000000)) ms"
inside "$bundle/bin/fathomctl" chat --url http://127.0.0.1:18000 "Tell me a short story."
kill -TERM $daemon
wait $daemon || fail "fathomd ended with $? after SIGTERM"
echo "the bundle runs in an empty Debian 12 root"
