#!/bin/sh
# Debian's prometheus and promtool into a directory, without root and without installing anything:
# sh get_prometheus.sh DIRECTORY.  Fails where there is no apt, or no such package.
set -eu
directory=$1
test ! -x "$directory/usr/bin/promtool" || exit 0
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir -p "$work/lists/partial"
cd "$work"
# With own lists where the machine has none yet; a minute each at most.
timeout 60 apt-get -qq download prometheus 2>/dev/null || {
    timeout 60 apt-get -qq -o Dir::State::Lists="$work/lists" update 2>/dev/null
    timeout 60 apt-get -qq -o Dir::State::Lists="$work/lists" download prometheus 2>/dev/null
}
dpkg-deb --fsys-tarfile prometheus_*.deb | tar -x ./usr/bin
cd "$OLDPWD"
mkdir -p "$directory"
cp -R "$work/usr" "$directory"
