#!/bin/sh
# What must be done before the machine goes off.
cd /
sync
umount /mnt 2>/dev/null || mount -o remount,ro /mnt 2>/dev/null
true
