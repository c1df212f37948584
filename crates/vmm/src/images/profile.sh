# /etc/profile of Moinho's Linux guest.
export PS1='moinho:\w\$ '
cd /

# At the prompt at once; in scripts through process 1, which ends all programs first.
poweroff() { [ $# = 0 ] && /etc/down && busybox poweroff -f || busybox poweroff "$@"; }
reboot() { [ $# = 0 ] && /etc/down && busybox reboot -f || busybox reboot "$@"; }
# A halted machine is of no use to anybody here.
halt() { poweroff; }
