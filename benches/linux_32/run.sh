#!/bin/sh
# Boots a 32-bit Debian kernel to its shell and runs a few jobs in it, under the translator, under
# QEMU's TCG and, the boot only, under the interpreter; and the same 32-bit jobs under the 64-bit
# kernel of `moinho run linux`. Prints seconds of wall time and of host processor time.
#
#   benches/linux_32/run.sh [DIR]      (default ~/.cache/moinho/linux32, fetched if it is not there)
set -eu

here=$(cd "$(dirname "$0")" && pwd)
dir=${1:-${XDG_CACHE_HOME:-$HOME/.cache}/moinho/linux32}
moinho=${MOINHO:-$here/../../target/release/moinho}
[ -e "$dir/initrd.gz" ] || "$here/fetch.sh" "$dir"
log=$(mktemp)
trap 'rm -f "$log"' EXIT

measure() {
    name=$1
    shift
    used=$( { LC_ALL=C TIMEFORMAT='%R %U %S' bash -c 'time "$@" >"$0" 2>/dev/null </dev/null' "$log" "$@"; } 2>&1 | tail -n 1)
    echo "$name: wall, user, system: $used"
    tr -d '\r' <"$log" | grep -a '^guest32:\|^job ' || echo "    did not come up"
}
ours() {
    name=$1 engine=$2 kernel=$3 words=$4
    measure "$name" timeout 600 "$moinho" run --engine "$engine" --memory 512M --no-reboot \
        --kernel "$kernel" --initrd "$dir/initrd.gz" --append "console=ttyS0 quiet $words off"
}
tcg() {
    name=$1 kernel=$2 words=$3
    measure "$name" timeout 600 qemu-system-x86_64 -accel tcg -cpu max -m 512 -display none \
        -serial stdio -monitor none -no-reboot -kernel "$kernel" -initrd "$dir/initrd.gz" \
        -append "console=ttyS0 quiet $words off"
}

wide=${XDG_CACHE_HOME:-$HOME/.cache}/moinho/linux/vmlinuz
for flavour in 686-pae 686; do
    ours "$flavour, bt, boot" bt "$dir/vmlinuz-$flavour" ''
    ours "$flavour, interp, boot" interp "$dir/vmlinuz-$flavour" ''
    tcg "$flavour, tcg, boot" "$dir/vmlinuz-$flavour" ''
done
ours "686-pae, bt, jobs" bt "$dir/vmlinuz-686-pae" bench
tcg "686-pae, tcg, jobs" "$dir/vmlinuz-686-pae" bench
if [ -e "$wide" ]; then
    ours "64-bit kernel, bt, jobs" bt "$wide" bench
    tcg "64-bit kernel, tcg, jobs" "$wide" bench
fi
