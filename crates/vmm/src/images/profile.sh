# /etc/profile of Moinho's Linux guest.
export PS1='moinho:\w\$ '
cd /

# They only ask process 1; don't show a prompt while it works.
poweroff() { busybox poweroff "$@" && sleep 10; }
reboot() { busybox reboot "$@" && sleep 10; }
halt() { busybox halt "$@" && sleep 10; }
