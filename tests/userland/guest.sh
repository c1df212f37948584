#!/bin/sh
# The userland test: runs inside a guest, or in a chroot for the native answers. Every job prints
# "@@ NAME begin", its answers as lines "@= TEXT", and "@@ NAME end STATUS"; answers must be the
# same wherever the processor is right, so they hold no times, addresses or process numbers.
# JOBS=gcc,stress selects; all without it. STRESS=matrix,vm selects stressors, EVP=a.txt vectors.
export LC_ALL=C PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root
mkdir -p /tmp/work
cd /tmp/work || exit 1
ALL=programs,python,perl,sqlite,digests,ciphers,keys,vectors,hackbench,stress,gcc
in_list() { case ",$1," in *",$2,"*) return 0 ;; esac; return 1; }
job() {
    in_list "${JOBS:-$ALL}" "$1" || return 0
    echo "@@ $1 begin"
    "$1" 2>&1 | sed -u 's/^/@= /'
    echo "@@ $1 end 0"
}
# Prints a command's output, and how it ended.
try() { "$@" 2>&1; r=$?; [ $r = 0 ] || echo "FAILED with status $r: $*"; }

# What the image's own compiler made beforehand (prepare.sh): the processor, not the compiler.
programs() {
    for p in integer floating signals selfmod threads library; do
        for o in O0 O2 O3; do echo "$p $o"; try /userland/bin/$p-$o; done
    done
}
# The compiler here, and what it makes.
gcc() {
    for p in integer floating signals selfmod threads library; do
        for o in O0 O2; do
            # C++ with all optimisations takes minutes where a processor is translated.
            [ $p-$o = library-O2 ] && continue
            src=$(ls /userland/programs/$p.*)
            case $src in *.cc) cc=g++ ;; *) cc=gcc ;; esac
            /usr/bin/$cc -$o -pthread $src -o $p-$o -lm || echo "FAILED to compile $p -$o"
            sha256sum $p-$o
            cmp $p-$o /userland/bin/$p-$o
        done
    done
    ./integer-O2; ./floating-O2; ./library-O0
}
python() {
    cat >t.py <<'P'
import array, cmath, decimal, fractions, hashlib, heapq, itertools, json, math, random, re, struct, threading, zlib
r = random.Random(7)
print(sum(r.getrandbits(64) for _ in range(20000)), r.random(), r.gauss(0, 1))
a, b = 3 ** 2000, 7 ** 1500
print(hashlib.sha256(str(a * b).encode()).hexdigest(), a * b // (b + 1) == a - 1 - (0 if (a % (b + 1)) else 0), math.gcd(a * b, b * 11), pow(3, 10 ** 50, 10 ** 40 + 7))
print([round(math.sin(n) + math.exp(-n) + cmath.sqrt(-n).imag, 11) for n in range(10)])
print(sum(fractions.Fraction(1, n) for n in range(1, 60)), decimal.Decimal(2).sqrt(decimal.Context(60)))
text = ' '.join('%x' % r.getrandbits(40) for _ in range(5000))
print(len(re.findall(r'\b[0-9a-f]*([a-f])\1[0-9a-f]*\b', text)), zlib.crc32(text.encode()), zlib.adler32(text.encode()))
print(zlib.decompress(zlib.compress(text.encode(), 9)).decode() == text, hashlib.md5(zlib.compress(text.encode(), 6)).hexdigest())
for name in sorted(hashlib.algorithms_guaranteed):
    h = hashlib.new(name, text.encode())
    print(name, h.hexdigest(32) if 'shake' in name else h.hexdigest())
d = {str(n): [n, n / 7, None, {'x': n}] for n in range(500)}
print(hashlib.md5(json.dumps(d, sort_keys=True).encode()).hexdigest(), json.loads(json.dumps(d)) == d)
print(struct.pack('<dfqhb', math.pi, math.e, -2 ** 60, -3, 7).hex(), repr(0.1 + 0.2), 1e23, 5e-324, float.hex(math.tau))
print(sorted(array.array('d', (r.random() for _ in range(5))))[:2], heapq.nsmallest(3, (r.random() for _ in range(1000))))
total, lock = [0], threading.Lock()
def add():
    for _ in range(3000):
        with lock: total[0] += 1
ts = [threading.Thread(target=add) for _ in range(4)]
[t.start() for t in ts]; [t.join() for t in ts]
print(total, sum(1 for p in itertools.permutations(range(7)) if all(abs(p[i] - p[j]) != j - i for i in range(7) for j in range(i + 1, 7))))
def f(n): return f(n - 1) + 1 if n else 0
try: f(10 ** 5)
except RecursionError as e: print(type(e).__name__)
P
    try python3 t.py
}
perl() {
    cat >t.pl <<'P'
use strict; use Digest::SHA qw(sha512_hex); use Digest::MD5 qw(md5_hex); use Math::BigInt; use List::Util qw(sum reduce);
my $x = 12345; sub r { $x = ($x * 1103515245 + 12345) & 0x7fffffff }
my @a = map { r() } 1 .. 20000; my @b = sort { $a <=> $b } @a; print md5_hex("@b"), " ", sum(@a), "\n";
my $f = Math::BigInt->new(150)->bfac; print $f, " ", $f->copy->bmodpow(65537, Math::BigInt->new("1000000000000000003")), "\n";
my $t = join ' ', map { sprintf '%x-%o-%e', $_, $_, $_ / 7 } @a[0 .. 3000]; print sha512_hex($t), "\n";
my %c; $c{$1}++ while $t =~ /([0-9a-f]{2})-/g; print join(',', map { "$_=$c{$_}" } (sort { $c{$b} <=> $c{$a} || $a cmp $b } keys %c)[0 .. 9]), "\n";
(my $u = $t) =~ s/(\d)(\d)/$2$1/g; $u =~ tr/a-f/A-F/; print md5_hex($u), "\n";
print md5_hex(pack('w*nNvVQd>f<', (@a[0 .. 50]) x 3)), " ", sprintf('%.15g %.3e %b %s', 1 / 3, 2 ** 70, 77, 1e15 + 0.3), "\n";
print join(' ', map { sprintf '%.10g', sin($_) * exp($_ / 9) + log($_) ** 1.5 + atan2($_, 3) } 1 .. 8), "\n";
my $d = 0; for my $pid (map { my $n = $_; my $p = fork; if (!$p) { exit $n } $p } 1 .. 20) { waitpid $pid, 0; $d += $? >> 8 } print "$d\n";
local $SIG{ALRM} = sub { die "alarm\n" }; eval { alarm 1; 1 while 1 }; print $@;
P
    try /usr/bin/perl t.pl
}
sqlite() {
    rm -f t.db
    try sqlite3 t.db "pragma journal_mode=wal; create table t(a integer primary key, b text, c real);
with recursive n(x) as (select 1 union all select x+1 from n where x<20000) insert into t select x, hex(x*2654435761 % 4294967296), x/7.0 from n;
create index i on t(b); update t set c=c*2 where a%3=0; delete from t where a%11=0;
select count(*), sum(a), round(sum(c),6), min(b), max(b) from t;
select b, a from t where b like 'A%7' order by b limit 5;
select a%10, count(*), round(avg(c),6), group_concat(substr(b,1,1),'') from (select * from t where a<300) group by 1 order by 1;
with recursive f(a,b) as (values(0,1) union all select b,a+b from f limit 80) select max(a) from f;
select printf('%.15g %e %x', 1/3.0, 1e100/3, 255), abs(-9223372036854775807), 7/2, 7%-3, round(2.5), 1e400, length(randomblob(100));
create virtual table s using fts5(x); insert into s select b||' '||(a%97) from t; select count(*) from s where s match '13';
begin; delete from t; rollback; vacuum; pragma integrity_check; select count(*) from t;"
    try sqlite3 t.db "select sum(a), count(distinct b) from t; pragma integrity_check"
}
# Data that is not all alike: a digest's counter.
data() { head -c "$1" /dev/zero | openssl enc -aes-128-ctr -K 00112233445566778899aabbccddeeff -iv 0; }
digests() {
    for size in 0 1 3 55 56 63 64 65 111 112 119 127 128 129 136 144 200 1000 4096 4097 65537 1000003; do
        data $size >d
        for a in md4 md5 sha1 sha224 sha256 sha384 sha512 sha512-224 sha512-256 sha3-224 sha3-256 sha3-384 sha3-512 shake128 shake256 blake2b512 blake2s256 sm3 ripemd160 whirlpool; do
            echo "$a $size $(openssl dgst -provider default -provider legacy -r -$a d 2>&1 | cut -d' ' -f1)"
        done
    done
}
ciphers() {
    key=00112233445566778899aabbccddeeff0123456789abcdeffedcba9876543210
    iv=0f1e2d3c4b5a69788796a5b4c3d2e1f0
    for size in 1 17 4096 100001; do
        data $size >d
        for a in $(openssl enc -list | tr ' ' '\n' | grep '^-' | grep -v 'wrap\|gcm\|ccm\|xts'); do
            openssl enc -provider default -provider legacy -e $a -K $key -iv $iv -in d -out e 2>/dev/null
            openssl enc -provider default -provider legacy -d $a -K $key -iv $iv -in e -out f 2>/dev/null
            cmp -s d f && ok=same || ok=DIFFERS
            echo "$a $size $(md5sum <e | cut -c1-32) $ok"
        done
    done
}
keys() {
    for k in rsa ec ed25519 ed448 x25519 dsa dh; do [ -f /userland/keys/$k.pem ] && try openssl pkey -in /userland/keys/$k.pem -check -noout; done
    data 5000 >d
    try openssl dgst -sha256 -sign /userland/keys/rsa.pem -out s d; md5sum s
    try openssl dgst -sha256 -prverify /userland/keys/rsa.pem -signature s d
    try openssl dgst -sha384 -sign /userland/keys/ec.pem -out s d
    try openssl dgst -sha384 -prverify /userland/keys/ec.pem -signature s d
    try openssl pkeyutl -sign -rawin -inkey /userland/keys/ed25519.pem -in d -out s; md5sum s
    try openssl pkeyutl -sign -rawin -inkey /userland/keys/ed448.pem -in d -out s; md5sum s
    try openssl genrsa -out k 2048; try openssl pkey -in k -check -noout
    for c in prime256v1 secp384r1 secp521r1 brainpoolP256r1 sect283k1; do
        openssl ecparam -name $c -genkey -noout -out k; try openssl pkey -in k -check -noout
        try openssl dgst -sha256 -sign k -out s d; openssl pkey -in k -pubout -out p; try openssl dgst -sha256 -verify p -signature s d
    done
    try openssl kdf -keylen 32 -kdfopt pass:secret -kdfopt salt:NaCl -kdfopt n:1024 -kdfopt r:8 -kdfopt p:4 SCRYPT
    try openssl kdf -keylen 40 -kdfopt pass:secret -kdfopt salt:NaCl -kdfopt iter:2000 -kdfopt digest:SHA512 PBKDF2
    try openssl mac -cipher AES-256-CBC -macopt hexkey:00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff -in d CMAC
    try openssl mac -macopt hexkey:00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff -in d POLY1305
}
# OpenSSL's own test vectors, with its own test program (prepare.sh).
vectors() {
    cd /userland/openssl || return
    for t in *.txt; do
        in_list "${EVP:-$t}" "$t" || continue
        ../bin/evp_test -config ../default-and-legacy.cnf "$t" >/tmp/work/evp.out 2>&1
        echo "$t status $? checks $(grep -c '^ *# *Completed\|^ *# .* tests with' /tmp/work/evp.out)"
    done
    cd /tmp/work
}
hackbench() {
    try /usr/bin/hackbench -g 3 -l 60 | grep -v ^Time:
    try /usr/bin/hackbench -g 3 -l 60 -p -T | grep -v ^Time:
    try /usr/bin/hackbench -g 2 -l 60 -s 3000 -P | grep -v ^Time:
}
# Stressors and how much they do, which is about a tenth of a second on the hardware. (Two do
# not end by their work: they get seconds. sigio is absent: now and then it does nothing for ever,
# natively, too; README.md.)
stress() {
    n=$(nproc); [ "$n" -gt 2 ] && n=2
    while read -r s ops more; do
        in_list "${STRESS:-$s}" "$s" || continue
        # shellcheck disable=SC2086
        stress-ng --$s $n --$s-ops $ops --verify -t 400 $more >/tmp/work/stress.out 2>&1
        r=$?
        echo "$s status $r"
        [ $r = 0 ] || grep -i 'fail\|error\|info' /tmp/work/stress.out | head -20
        # A stressor that was stopped by the clock has not done its work.
        grep -q 'run completed in [34]..\.' /tmp/work/stress.out && echo "$s ran out of time"
    done <<'S'
branch 8000
bsearch 28
context 400
cpu 320 --cpu-method all
crypt 200
fp 42
fp-error 60000
funccall 500
funcret 50000
getrandom 4000
goto 80000
hash 15000
heapsort 1
hsearch 700
judy 3
list 2
longjmp 700
lsearch 1
matrix 200
matrix-3d 12
mergesort 1
nop 6000
opcode 120
prefetch 2
priv-instr 16000
qsort 1
radixsort 1
rdrand 2000
regs 370
rotate 2800
shellsort 1
skiplist 250
sparsematrix 1
str 17000
stream 5 --stream-l3-size 1M
syncload 2
tree 1 --tree-size 20000
tsc 30000
tsearch 1
vecfp 76
vecmath 126
vecshuf 176
vecwide 2200
wcs 14000
x86cpuid 100
zlib 3
vm 120 --vm-bytes 32M --vm-method all
vm-addr 2
vm-rw 6 --vm-rw-bytes 16M
vm-segv 160
vm-splice 14000
mmap 1 --mmap-bytes 16M
mmapaddr 2700
mmapfixed 3
mmapmany 6500
mprotect 38000
brk 44000
stack 1
stackmmap 2
bad-altstack 370
shm 3
shm-sysv 15
madvise 3
mlock 1100
malloc 4000
memcpy 10
memfd 1 --memfd-bytes 16M
memthrash 2
mincore 62
msync 15 --msync-bytes 8M
pageswap 2900
pagemove 4
remap 2
syscall 1000000 -t 4
x86syscall 360000
vdso 300000
get 5
sigsegv 13000
sigfpe 13000
sigtrap 19000
sigfd 42000
signal 11000
sigsuspend 2600
sigq 11700
sigpipe 2400
sigrt 31000
sigabrt 270
sigchld 330
futex 970
pipe 65000
poll 3000
eventfd 27000
fork 90
vfork 2600
clone 3
pthread 400
dup 30
sem 10000000 -t 3
sem-sysv 88000
switch 20000
tee 860
splice 5300
membarrier 2
kill 6400
nanosleep 450
clock 700
timer 470
itimer 10
full 900
urandom 800
env 14
fallocate 1
flock 64000
S
}
for j in $(echo $ALL | tr , ' '); do job $j; done
echo "@@ all done"
# The end of a session hangs its terminal up, which drops what has not been sent yet: this waits.
stty onlcr <&1 2>/dev/null
exit 0
