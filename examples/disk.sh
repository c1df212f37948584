#!/usr/bin/env bash
# Runs Linux with a disk of its own, writes a file there, and shows that the host has it.
# Needs mke2fs and debugfs (e2fsprogs).
set -eu
cd "$(dirname "$0")/.."
disk=$(mktemp --suffix=.img)
trap 'rm -f "$disk"' EXIT
truncate -s 16M "$disk"
mke2fs -q -F "$disk"
# The guest mounts the first disk on /mnt.
cargo run --release -q -- run linux --disk "$disk" \
    -- 'uname -srm > /mnt/hello; cat /mnt/hello; df -h /mnt' </dev/null
echo "The host reads it from the image:"
debugfs -R 'cat /hello' "$disk" 2>/dev/null
