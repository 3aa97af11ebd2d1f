# Sourced by test_bundle.sh and test_fresh.sh: an empty Debian 12 root in a mount namespace of its
# own, so that whatever is mounted goes when the script ends, however it ends.

fail() { echo "$(basename "$0"): $*" >&2; exit 1; }

# Runs this script again, where its mounts and processes end with it. Call it first.
enter_namespaces() {
  [ "$(id -u)" = 0 ] || fail "needs root, for chroot"
  [ -z "${IN_NAMESPACES:-}" ] || return 0
  IN_NAMESPACES=1 exec unshare --mount --pid --mount-proc --fork --kill-child=SIGKILL "$0" "$@"
}

# The mirror of main that this machine installs Debian 12 from; none: debootstrap's own.
debian_mirror() {
  cat /etc/apt/sources.list /etc/apt/sources.list.d/*.{list,sources} 2>/dev/null |
    sed -n -e 's/^deb [^h]*\(http[^ ]*\) bookworm .*main.*/\1/p' \
      -e 's/^URIs: *\([^ ]*\/debian\/*\)$/\1/p' | head -n 1 || true
}

# make_root FOLDER: fills it, unless it was filled to the end before.
make_root() {
  [ ! -e "$1/.complete" ] || return 0
  command -v debootstrap >/dev/null || fail "needs debootstrap"
  local mirror
  mirror=$(debian_mirror)
  rm -rf "$1"
  mkdir -p "$1"
  debootstrap --variant=minbase bookworm "$1" ${mirror:+"$mirror"} >"$1.log" 2>&1 ||
    { tail -n 20 "$1.log" >&2; fail "debootstrap failed; all of it in $1.log"; }
  touch "$1/.complete"
}

# The loader finds $ORIGIN through /proc/self/exe, as fathomd finds its model.
mount_root() {
  mount -t proc proc "$1/proc"
  mkdir -p "$1/dev/shm" "$1/dev/pts"
  mount -t tmpfs tmpfs "$1/dev/shm"
  mount -t devpts -o newinstance,ptmxmode=0666 devpts "$1/dev/pts"
  inside_root "$1"
}

# INSIDE COMMAND...: in the root, with nothing of this machine's environment. An array, no function,
# so that a command in the background is the process that $! names.
inside_root() {
  INSIDE=(chroot "$1" /usr/bin/env -i PATH=/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin HOME=/root)
}
