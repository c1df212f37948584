#!/bin/sh
/etc/down
busybox poweroff -f
