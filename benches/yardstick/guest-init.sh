#!/bin/busybox sh
# Run by the initramfs of `moinho run linux` with the disk on /mnt: the yardstick in the chroot.
# $1: jobs, comma-separated; empty for all.
mount -t proc proc /mnt/proc
mount -t sysfs sysfs /mnt/sys
mount --bind /dev /mnt/dev
exec chroot /mnt /usr/bin/env -i JOBS="$1" /bin/sh /bench.sh
