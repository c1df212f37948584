#!/bin/busybox sh
# Run by the initramfs of `moinho run linux` with the disk on /mnt: the test in the chroot. The
# arguments are settings for guest.sh, as in JOBS=gcc.
mount -t proc proc /mnt/proc
mount -t sysfs sysfs /mnt/sys
mount --bind /dev /mnt/dev
mkdir -p /mnt/dev/shm
mount -t tmpfs tmpfs /mnt/dev/shm
mount -t tmpfs tmpfs /mnt/tmp
exec chroot /mnt /usr/bin/env -i "$@" /bin/sh /guest.sh
