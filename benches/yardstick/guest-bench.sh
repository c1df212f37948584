#!/bin/sh
# The yardstick: runs inside a guest, or in a chroot for the native figure. Each job prints
# "@@ NAME begin" and "@@ NAME end STATUS"; the host stamps the lines. Outside the stamped time a
# job's result is reduced to a digest, "@@ NAME check DIGEST", the same wherever it is right.
# JOBS=gcc,nbody selects; all without it.
export LC_ALL=C PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root
cd /tmp
wanted() { case ",${JOBS:-$1}," in *",$1,"*) return 0 ;; esac; return 1; }
job() { n=$1; shift; wanted $n || return 0; echo "@@ $n begin"; "$@" >/tmp/out.$n 2>&1; r=$?; echo "@@ $n end $r"; }
check() { n=$1; shift; wanted $n || return 0; d=$(sh -c "$1" 2>&1 | openssl dgst -sha256 -r | cut -c1-16); echo "@@ $n check $d"; }

echo "@@ boot end 0"
cat > nbody.c <<'C'
#include <math.h>
#include <stdio.h>
int main(){double x[5]={0,1,2,3,4},v[5]={0,.1,.2,.3,.4};for(int s=0;s<4000000;s++){for(int i=0;i<5;i++){double a=0;for(int j=0;j<5;j++)if(i!=j){double d=x[j]-x[i];a+=d/(sqrt(d*d+.01)*(d*d+.01));}v[i]+=a*1e-3;}for(int i=0;i<5;i++)x[i]+=v[i]*1e-3;}printf("%f\n",x[0]);return 0;}
C
job gcc sh -c 'for i in 1 2 3; do gcc -O2 nbody.c -o nbody -lm || exit 1; done'
check gcc 'cat nbody || cat /tmp/out.gcc'
# Selected alone, it needs a program all the same: the one that came with the image.
[ -x nbody ] || cp /usr/local/bin/nbody nbody
job nbody ./nbody
check nbody 'cat /tmp/out.nbody'
job 7zip 7zz b 1 -mmt1 -md18
check 7zip 'cp /usr/bin/perl p && 7zz a -t7z -mx1 -mmt1 a.7z p >/dev/null && rm p && 7zz x a.7z >/dev/null && cat p; rm -f p a.7z'
job sha256 sh -c 'head -c 400M /dev/zero | openssl dgst -sha256'
check sha256 'cat /tmp/out.sha256'
job aes sh -c 'head -c 400M /dev/zero | openssl enc -aes-256-ctr -K 00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff -iv 00112233445566778899aabbccddeeff | wc -c'
check aes 'cat /tmp/out.aes; head -c 1M /dev/zero | openssl enc -aes-256-ctr -K 00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff -iv 00112233445566778899aabbccddeeff'
if wanted rsa; then openssl genrsa -out k.pem 2048 2>/dev/null; fi
job rsa sh -c 'i=0; while [ $i -lt 60 ]; do openssl dgst -sha256 -sign k.pem -out sig nbody.c || exit 1; i=$((i+1)); done'
check rsa 'openssl dgst -sha256 -prverify k.pem -signature sig nbody.c'
job python python3 -c 'import re
s=0
d={}
for i in range(600000):
    d[i%1000]=d.get(i%1000,0)+i*i%7
    s+=len(str(i))
print(s,sum(d.values()))'
check python 'cat /tmp/out.python'
job sqlite sqlite3 :memory: "with recursive c(x) as (select 1 union all select x+1 from c where x<150000) select count(*), sum(a.h) from (select x, length(hex(x*x)) h from c order by h, x) a;"
check sqlite 'cat /tmp/out.sqlite'
job forkexec sh -c 'i=0; while [ $i -lt 300 ]; do /bin/true; i=$((i+1)); done'
job syscalls dd if=/dev/zero of=/dev/null bs=1 count=300000
check syscalls 'grep records /tmp/out.syscalls'
job pipes hackbench -g 2 -l 200
check pipes 'grep -v ^Time: /tmp/out.pipes'
job memory sysbench memory --memory-block-size=1M --memory-total-size=4G run
check memory 'grep "total operations:\|^Total operations:" /tmp/out.memory | cut -d"(" -f1'
job files sh -c 'mkdir -p /tmp/t; for i in 1 2 3; do cp -r /usr/include/linux /tmp/t/$i; done; find /tmp/t -type f | wc -l; tar cf /tmp/t.tar /tmp/t; rm -rf /tmp/t /tmp/t.tar'
check files 'grep -v Removing /tmp/out.files'
# Not one of the thirteen: how two processors share work (run.py --jobs parallel).
job parallel sh -c 'for i in 1 2 3 4; do python3 -c "print(sum(i * i % 7 for i in range(1500000)))" & /usr/local/bin/nbody & done; wait'
check parallel 'sort /tmp/out.parallel'
echo "@@ all done"
