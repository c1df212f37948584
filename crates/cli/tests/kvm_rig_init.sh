#!/bin/sh
# /init of the machine in which the KVM engine is tested; see kvm_rig.rs. Runs everything and says
# CHECK name: ok, or what it saw instead.
bb=/bin/busybox
$bb mount -t proc proc /proc
$bb mount -t sysfs sysfs /sys
$bb mount -t devtmpfs devtmpfs /dev
$bb --install -s /bin
export PATH=/bin
exec </dev/console >/dev/console 2>&1
# KVM remembers the TSC's rate when it is loaded. The kernel measures it once more a second after the
# start, and on a busy host the two differ by more than KVM bears (250 ppm): it then makes the
# guests' TSCs up from its clock, and they are nobody's any more.
n=0
until dmesg | grep -q 'Refined TSC' || [ $n = 40 ]; do sleep 0.2; n=$((n + 1)); done
for module in $(cat /modules/order); do insmod /modules/$module; done
cd /tmp

# The last words of a run, on one line.
words() { tail -n 4 "$1" | tr '\r\n\t' '   ' | tail -c 300; }

moinho engines
moinho engines --json >engines
grep -A2 '"engine": "kvm"' engines | grep -q '"usable": true' && echo "CHECK engine: ok" || echo "CHECK engine: kvm is not usable"

moinho run --memory 64M --kernel /guests/sample_pvh32 --no-reboot </dev/null >out 2>&1
grep -q 'moinho: engine kvm: measured' out && echo "CHECK auto: ok, $(grep -m 1 'engine kvm' out)" || echo "CHECK auto: $(words out)"

# QEMU 7.2 lets XSETBV pass the intercept, and VMRUN loads DR7 without arming what it enables (the
# program debug_traps, whose guest writes DR7 itself, passes).
MOINHO_KVM=required timeout 120 processor --test-threads 1 --skip xsetbv --skip breakpoints && echo "CHECK processor: ok" || echo "CHECK processor: failed"
MOINHO_KVM=required timeout 120 dirty_log --test-threads 1 kvms && echo "CHECK dirty-log: ok" || echo "CHECK dirty-log: failed"

# Every guest program, by its exit status.
while read -r name cpus; do
    timeout 90 moinho run --engine kvm --memory 64M --no-reboot --cpu-model x86-64-v3 --cpus "$cpus" \
        --kernel "/guests/$name" </dev/null >out 2>&1
    status=$?
    [ $status = 33 ] && echo "CHECK $name: 33" || echo "CHECK $name: $status $(words out)"
done </guests/list

# Stock Linux, with commands, an idle second, and a disk that is written and read back.
work='nproc; cat /sys/devices/system/clocksource/clocksource0/current_clocksource; sleep 1'
disk='dd if=/dev/urandom of=/tmp/x bs=64k count=8; dd if=/tmp/x of=/dev/vda bs=64k seek=3 conv=fsync; echo 3 >/proc/sys/vm/drop_caches; dd if=/dev/vda bs=64k skip=3 count=8 | cmp - /tmp/x && echo disk=$(md5sum </tmp/x)'
linux() {
    timeout 200 moinho run --kernel /kernel --initrd /initrd --stats "$@" </dev/null >out 2>&1
    status=$?
    cat out
}
ended_well() { [ $status = 0 ] && grep -q 'moinho.run: exit status 0' out; }

linux --engine kvm --append "console=ttyS0 panic=-1 quiet moinho.run=\"$work\""
ended_well && grep -q '^1' out && echo "CHECK linux-1: ok" || echo "CHECK linux-1: $status $(words out)"
kib=$(sed -n 's/.*KiB, \([0-9]*\) KiB of it beside guest RAM.*/\1/p' out)
[ "${kib:-99999}" -le 16384 ] && echo "CHECK memory: ok, $kib KiB beside guest RAM" || echo "CHECK memory: $kib KiB beside guest RAM"

dd if=/dev/zero of=disk bs=1M count=8 2>/dev/null
linux --engine kvm --cpus 2 --disk disk --append "console=ttyS0 panic=-1 quiet moinho.run=\"$work; $disk\""
ended_well && grep -q '^2' out && echo "CHECK linux-2: ok" || echo "CHECK linux-2: $status $(words out)"
there=$(sed -n 's/.*disk=\([0-9a-f]*\).*/\1/p' out | tail -n 1)
here=$(dd if=disk bs=64k skip=3 count=8 2>/dev/null | md5sum)
[ -n "$there" ] && [ "${here%% *}" = "$there" ] && echo "CHECK disk: ok" || echo "CHECK disk: $there there, $here here"

# A shell at a terminal.
mkfifo keys
moinho run --engine kvm --kernel /kernel --initrd /initrd --append 'console=ttyS0 panic=-1 quiet' <keys >out 2>&1 &
exec 3>keys
n=0
until grep -q 'To leave' out || [ $n = 300 ]; do sleep 0.2; n=$((n + 1)); done
echo 'echo six times seven is $((6 * 7))' >&3
sleep 1
echo 'poweroff' >&3
wait $!
status=$?
exec 3>&-
cat out
[ $status = 0 ] && grep -q 'six times seven is 42' out && echo "CHECK shell: ok" || echo "CHECK shell: $status $(words out)"

# From exec to the guest's first instruction and its end: the smallest guest.
moinho run --engine kvm --memory 64M --kernel /guests/sample_pvh32 </dev/null >/dev/null 2>&1
t0=$(cut -d' ' -f1 /proc/uptime)
for i in 1 2 3 4 5 6 7 8 9 10; do
    moinho run --engine kvm --force --memory 64M --kernel /guests/sample_pvh32 </dev/null >/dev/null 2>&1
done
t1=$(cut -d' ' -f1 /proc/uptime)
echo "CHECK start: ok, ten runs of a small guest from $t0 to $t1 s in the emulated machine"

# Half a boot in one engine, half in the other, and back and there again. The guest counts seconds
# meanwhile, and its clock and ours must agree at the end.
ticks='for n in 1 2 3 4 5 6 7 8; do sleep 0.5; echo tick $n; done; echo clock=$(date +%s)'
moved() {
    linux --engine "$1" --then "kvm@$2" --then "$1@$3" --then "kvm@$4" --cpus "$5" --memory 192M \
        --append "console=ttyS0 panic=-1 quiet moinho.run=\"nproc; $ticks\""
    here=$(date +%s)
    there=$(sed -n 's/^clock=\([0-9]*\).*/\1/p' out)
    behind=$((here - ${there:-0}))
    moves=$(grep -c 'moved from' out)
    ended_well && [ "$moves" = 3 ] && [ "$behind" -ge 0 ] && [ "$behind" -le 4 ] &&
        echo "CHECK moved-$1-$5: ok, clocks $behind s apart after the end" ||
        echo "CHECK moved-$1-$5: $status, $moves moves, clocks $behind s apart, $(words out)"
}
moved interp 3 7 8.5 1
moved bt 3 7 8.5 1
moved interp 3 7 8.5 2
moved bt 3 7 8.5 2

poweroff -f
