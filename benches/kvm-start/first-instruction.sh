#!/bin/sh
# Milliseconds from execve to the first KVM_RUN of the guest's machine (not the probe's), as strace
# sees it: strace's own cost is in it, so these are upper bounds. The five best of N (12) runs.
#   benches/kvm-start/first-instruction.sh target/release/moinho KERNEL [N]
set -eu
moinho=$1 kernel=$2
log=$(mktemp)
trap 'rm -f "$log"' EXIT
for _ in $(seq "${3:-12}"); do
    strace -f -ttt -e trace=execve,ioctl -o "$log" \
        "$moinho" run --engine kvm --force --memory 64M --kernel "$kernel" </dev/null >/dev/null 2>&1 || true
    awk '/execve\(/ && !start { start = $2 }
        /KVM_CREATE_VM/ { run = 0 }
        /KVM_RUN/ && !run { run = $2 }
        END { if (run) printf "%.1f\n", (run - start) * 1000 }' "$log"
done | sort -n | head -n 5
