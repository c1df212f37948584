#!/usr/bin/env bash
# Makes what the userland test runs on: a Debian userland (folder, for native) and an ext4 image of
# it (for guests), with OpenSSL's own test vectors in it. Needs root, debootstrap and mke2fs;
# fetches about 120 MB, once.
# Usage: prepare.sh [FOLDER]     (default: ~/.cache/moinho/userland)
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
cache=${1:-${XDG_CACHE_HOME:-$HOME/.cache}/moinho/userland}
suite=bookworm
packages=stress-ng,perl,python3-minimal,libpython3-stdlib,sqlite3,openssl,libssl-dev,gcc,g++,libc6-dev,rt-tests,make
mkdir -p "$cache"
cd "$cache"
exec 9>lock
flock 9

for tool in debootstrap mke2fs; do
    command -v $tool >/dev/null || { echo "missing: $tool (Debian: apt-get install debootstrap e2fsprogs)" >&2; exit 1; }
done
if [ ! -d root ]; then
    [ "$(id -u)" = 0 ] || { echo "debootstrap and chroot need root" >&2; exit 1; }
    rm -rf root.tmp
    debootstrap --variant=minbase --include=$packages $suite root.tmp >debootstrap.log 2>&1 ||
        { tail -5 debootstrap.log >&2; exit 1; }
    rm -rf root.tmp/var/cache/apt/archives/*.deb root.tmp/var/lib/apt/lists/*
    mv root.tmp root
fi
# OpenSSL's own test program and vectors, from the source of the installed package.
if [ ! -x root/userland/bin/evp_test ]; then
    echo "deb-src http://deb.debian.org/debian $suite main" >root/etc/apt/sources.list.d/source.list
    chroot root sh -e <<'S' >openssl.log 2>&1 || { tail -5 openssl.log >&2; exit 1; }
apt-get -qq update
mkdir -p /userland/bin /userland/source
cd /userland/source
apt-get -qq source --download-only openssl
tar xzf openssl_*.orig.tar.gz --strip-components=1
./Configure linux-x86_64 no-shared no-fips
make -s build_generated
mkdir -p objects
cd objects
includes="-I../include -I../apps/include -I.."
gcc -c -O1 $includes ../test/testutil/*.c ../apps/lib/opt.c
ar rcs testutil.a *.o
gcc -O1 $includes -o /userland/bin/evp_test ../test/evp_test.c testutil.a /usr/lib/x86_64-linux-gnu/libcrypto.a -lpthread -ldl
cp -r ../test/recipes/30-test_evp_data /userland/openssl
cp ../test/default-and-legacy.cnf /userland/
rm -rf /userland/source /var/lib/apt/lists/*
S
fi
cp "$here"/guest.sh "$here"/guest-init.sh root/
# Our own programs, built here if they changed, and keys: random, so made once.
if ! diff -r "$here"/programs root/userland/programs >/dev/null 2>&1; then
    rm -rf root/userland/programs root/userland/bin/*-O?
    cp -r "$here"/programs root/userland/programs
fi
chroot root sh -e <<'S'
mkdir -p /userland/bin /userland/keys
for source in /userland/programs/*; do
    name=$(basename "${source%.*}")
    case $source in *.cc) cc=g++ ;; *) cc=gcc ;; esac
    for o in O0 O2 O3; do [ -x /userland/bin/$name-$o ] || $cc -$o -pthread "$source" -o /userland/bin/$name-$o -lm; done
done
cd /userland/keys
[ -f rsa.pem ] || openssl genrsa -out rsa.pem 3072 2>/dev/null
[ -f ec.pem ] || openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:secp384r1 -out ec.pem
for k in ed25519 ed448 x25519; do [ -f $k.pem ] || openssl genpkey -algorithm $k -out $k.pem; done
S
rm -rf root/tmp/* # what a native run left
digest=$(cd root && find guest.sh guest-init.sh userland -type f | sort | xargs sha256sum | sha256sum)
if [ ! -f disk.img ] || [ "$(cat disk.digest 2>/dev/null)" != "$digest" ]; then
    rm -f disk.img disk.tmp
    mke2fs -q -t ext4 -d root -E root_owner=0:0 disk.tmp 2G
    mv disk.tmp disk.img
    echo "$digest" >disk.digest
fi
echo "$cache"
