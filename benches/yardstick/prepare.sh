#!/usr/bin/env bash
# Makes what the yardstick runs on: a Debian userland (folder, for native) and an ext4 image of it
# (for guests). Needs root, debootstrap and mke2fs; fetches about 80 MB, once.
# Usage: prepare.sh [FOLDER]     (default: ~/.cache/moinho/yardstick)
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
cache=${1:-${XDG_CACHE_HOME:-$HOME/.cache}/moinho/yardstick}
suite=bookworm
packages=7zip,openssl,python3-minimal,sqlite3,sysbench,gcc,libc6-dev,linux-libc-dev,rt-tests,perl
mkdir -p "$cache"
cd "$cache"
exec 9>lock
flock 9

for tool in debootstrap mke2fs; do
    command -v $tool >/dev/null || { echo "missing: $tool (Debian: apt-get install debootstrap e2fsprogs)" >&2; exit 1; }
done
if [ ! -d root ]; then
    [ "$(id -u)" = 0 ] || { echo "debootstrap and chroot need root" >&2; exit 1; }
    rm -rf root.tmp
    debootstrap --variant=minbase --include=$packages $suite root.tmp >debootstrap.log 2>&1 ||
        { tail -5 debootstrap.log >&2; exit 1; }
    rm -rf root.tmp/var/cache/apt/archives/*.deb root.tmp/var/lib/apt/lists/*
    mv root.tmp root
fi
cp "$here/guest-bench.sh" root/bench.sh
cp "$here/guest-init.sh" root/yardstick-init.sh
rm -rf root/tmp/* # what a native run left
# The program of the job nbody, for when it runs without gcc's job.
if [ ! -x root/usr/local/bin/nbody ]; then
    sed -n "/<<'C'/,/^C\$/p" "$here/guest-bench.sh" | sed '1d;$d' >root/root/nbody.c
    chroot root gcc -O2 /root/nbody.c -o /usr/local/bin/nbody -lm
fi
digest=$(cat root/bench.sh root/yardstick-init.sh | sha256sum)
if [ ! -f disk.img ] || [ "$(cat disk.digest 2>/dev/null)" != "$digest" ]; then
    rm -f disk.img disk.tmp
    mke2fs -q -t ext4 -d root -E root_owner=0:0 disk.tmp 1536M
    mv disk.tmp disk.img
    echo "$digest" >disk.digest
fi
echo "$cache"
