#!/bin/sh
# Fetches Debian's 32-bit kernels and a 32-bit busybox through apt, as an ordinary user, and packs an
# initial RAM disk: DIR/vmlinuz-686, DIR/vmlinuz-686-pae, DIR/initrd.gz.
#
#   benches/linux_32/fetch.sh DIR
#
# Needs apt-get, dpkg-deb, cpio and gzip. What the host trusts and where its archives are is taken
# from /etc/apt; its own lists, cache and status stay as they are.
set -eu

here=$(cd "$(dirname "$0")" && pwd)
mkdir -p "$1"
dir=$(cd "$1" && pwd)
work=$dir/work
rm -rf "$work"
mkdir -p "$work/state/lists/partial" "$work/cache/archives/partial" "$work/packages"
: >"$work/status"

apt() {
    tool=$1
    shift
    "$tool" -o Dir::State="$work/state" -o Dir::State::status="$work/status" \
        -o Dir::Cache="$work/cache" -o APT::Architectures::=amd64 -o APT::Architectures::=i386 \
        -o APT::Sandbox::User=root "$@"
}

# An archive that cannot be reached does not matter as long as another one has what is needed.
apt apt-get update -qq || :
cd "$work/packages"
for flavour in 686 686-pae; do
    kernel=$(apt apt-cache depends "linux-image-$flavour:i386" |
        sed -n 's/.*Depends: \(linux-image-[0-9][^: ]*\).*/\1/p' | head -n 1)
    [ -n "$kernel" ] || { echo "no archive has linux-image-$flavour:i386" >&2; exit 1; }
    apt apt-get download -qq "$kernel:i386"
    dpkg-deb -x "$kernel"_*.deb "$work/$flavour"
    cp "$work/$flavour/boot"/vmlinuz-* "$dir/vmlinuz-$flavour"
done
apt apt-get download -qq busybox-static:i386
dpkg-deb -x busybox-static_*.deb "$work/busybox"

root=$work/root
mkdir -p "$root/bin" "$root/dev" "$root/proc" "$root/sys"
cp "$work/busybox/bin/busybox" "$root/bin/"
cp "$here/init" "$root/init"
chmod 755 "$root/init" "$root/bin/busybox"
(cd "$root" && find . | LC_ALL=C sort | cpio -o -H newc --quiet | gzip -9n) >"$dir/initrd.gz"
rm -rf "$work"
