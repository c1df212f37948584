#!/bin/sh
# The first program of Moinho's Linux guest, run by busybox: readies the machine, then becomes
# busybox init (/etc/inittab). The host packs it: crates/vmm/src/images/initramfs.rs.

export PATH=/sbin:/bin:/usr/sbin:/usr/bin HOME=/root USER=root TERM=xterm LANG=C.UTF-8

bb() { /bin/busybox "$@"; }

bb mount -t proc proc /proc
bb mount -t sysfs sysfs /sys
bb mount -t devtmpfs devtmpfs /dev 2>/dev/null
bb mkdir -p /dev/pts /dev/shm
bb mount -t devpts devpts /dev/pts 2>/dev/null
bb mount -t tmpfs tmpfs /tmp
bb mount -t tmpfs tmpfs /run
bb --install -s

while read -r module; do
    insmod "/lib/modules/$module" >/dev/null 2>&1
done </lib/modules/order

# A console may have appeared with its module (hvc0).
exec </dev/console >/dev/console 2>&1

hostname -F /etc/hostname
ip link set lo up 2>/dev/null
if [ -e /sys/class/net/eth0 ]; then
    ip link set eth0 up && udhcpc -i eth0 -b -S -s /etc/udhcpc.script >/dev/null 2>&1 &
fi

disk=
for name in vda vda1 nvme0n1 nvme0n1p1; do
    [ -b /dev/$name ] || continue
    mount /dev/$name /mnt 2>/dev/null || continue
    disk="/dev/$name ($(sed -n "s,^/dev/$name /mnt \([^ ]*\) .*,\1,p" /proc/mounts)) is on /mnt"
    break
done

# moinho.run=COMMAND, moinho.run="A COMMAND" or moinho.run64=BASE64: run it, say how it ended, stop.
cmdline=$(cat /proc/cmdline)
run=
case " $cmdline" in
*' moinho.run64='*)
    run=${cmdline##*moinho.run64=}
    run=$(echo "${run%% *}" | base64 -d)
    ;;
*' "moinho.run='*)
    run=${cmdline##*\"moinho.run=}
    run=${run%%\"*}
    ;;
*' moinho.run="'*)
    run=${cmdline##*moinho.run=\"}
    run=${run%%\"*}
    ;;
*' moinho.run='*)
    run=${cmdline##*moinho.run=}
    run=${run%% *}
    ;;
esac
if [ -n "$run" ]; then
    # A reboot or poweroff asked for by the command waits for its end.
    how=poweroff
    trap 'how=reboot' TERM
    trap ':' USR1 USR2
    # When the session ends the kernel hangs its terminal up, and what the serial port has not sent
    # is lost, as on any machine: stty waits until all is out. Likewise before the power goes.
    setsid cttyhack sh -c 'sh -c "$1"; status=$?; stty sane; exit $status' sh "$run"
    echo "moinho.run: exit status $?"
    stty sane
    /etc/down
    $how -f
fi

# The power button.
[ -e /dev/input/event0 ] && acpid -l /dev/null -p /run/acpid.pid >/dev/null 2>&1

cpus=$(grep -c '^processor' /proc/cpuinfo)
[ "$cpus" = 1 ] && cpus="1 processor" || cpus="$cpus processors"
memory=$(($(sed -n 's/^MemTotal: *\([0-9]*\).*/\1/p' /proc/meminfo) / 1024))
echo
echo "Linux $(uname -r) on Moinho: $cpus, $memory MiB of memory"
[ -n "$disk" ] && echo "Disk $disk"
echo "To leave: poweroff, or Ctrl-A x"
exec init
