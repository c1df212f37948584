#!/usr/bin/env python3
"""The yardstick, side by side: native (chroot), QEMU TCG, Moinho.

Runs guest-bench.sh in each system in turn, the same kernel, initramfs, command line and disk for
all guests, and stamps its "@@" lines on the host. Prints a Markdown table and writes JSON.

    prepare.sh && run.py --repeat 3 --systems native,tcg,bt
    run.py --profile --jobs gcc,aes            # what --stats counts, a machine a job
    run.py --table out.json                    # the table again

Two clocks: `wall`, and `cpu`, the processor time the system used meanwhile (of its control group;
root only). On a busy host only `cpu` means anything; on a quiet one they agree.
"""
import argparse, datetime, json, math, os, select, signal, statistics, subprocess, sys, time
from pathlib import Path

HERE = Path(__file__).resolve().parent
JOBS = ("gcc nbody 7zip sha256 aes rsa python sqlite "
        "forkexec syscalls pipes memory files").split()
COMPUTE = JOBS[:8]
# Only by name: for --moinho-args="--cpus 2".
EXTRA = ["parallel"]
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "moinho"
APPEND = "console=ttyS0 panic=-1 quiet cryptomgr.notests"
CPUACCT = (("/sys/fs/cgroup/cpuacct", "cpuacct.usage", lambda t: int(t) / 1e9),
           ("/sys/fs/cgroup", "cpu.stat", lambda t: int(t.split()[1]) / 1e6))


class Group:
    """A control group that counts processor time; none where we may not make one."""

    def __init__(self):
        self.folder = None
        for root, file, read in CPUACCT:
            folder = Path(root) / f"yardstick-{os.getpid()}"
            try:
                folder.mkdir()
            except OSError:
                continue
            if (folder / file).exists():
                self.folder, self.file, self.read = folder, folder / file, read
                return
            folder.rmdir()

    def enter(self):
        if self.folder:
            (self.folder / "cgroup.procs").write_text(str(os.getpid()))

    def used(self):
        return self.read(self.file.read_text()) if self.folder else float("nan")

    def remove(self):
        if self.folder:
            for _ in range(50):
                try:
                    return self.folder.rmdir()
                except OSError:
                    time.sleep(0.1)


def command(system, jobs, args):
    names = ",".join(jobs) or "none"
    if system == "native":
        root = args.cache / "root"
        return ["chroot", str(root), "/usr/bin/env", "-i", f"JOBS={names}", "/bin/sh", "/bench.sh"]
    kernel, initrd, disk = (str(p) for p in
                            (CACHE / "linux/vmlinuz", CACHE / "linux/initrd", args.cache / "disk.img"))
    append = f'{APPEND} {args.append} "moinho.run=sh /mnt/yardstick-init.sh {names}"'
    if system == "tcg":
        return ["qemu-system-x86_64", "-M", "q35", "-cpu", "max", "-accel", "tcg", "-smp", "1",
                "-m", args.memory, "-nodefaults", "-display", "none", "-serial", "stdio", "-no-reboot",
                "-kernel", kernel, "-initrd", initrd, "-append", append,
                "-drive", f"if=none,id=d,format=raw,snapshot=on,file={disk}",
                "-device", "virtio-blk-pci,drive=d"]
    more = ["--cpu-model", args.cpu_model] if args.cpu_model else []
    return [*args.perf_record, args.moinho, "run", "--engine", system, *more, "-m", args.memory,
            "--disk", f"{disk},cow", "--stats", "--json", "--no-reboot", *args.moinho_args.split(),
            "--kernel", kernel, "--initrd", initrd, "--append", append]


def start(system, jobs, args):
    """One run of a system. What came of it, and the output."""
    group = Group()
    t0 = time.monotonic()
    process = subprocess.Popen(command(system, jobs, args), stdin=subprocess.DEVNULL,
                               stdout=subprocess.PIPE, stderr=subprocess.STDOUT, preexec_fn=group.enter,
                               start_new_session=True)
    c0 = group.used()
    results, begun, text, line, done, hang = {}, {}, bytearray(), bytearray(), False, False
    while True:
        ready, _, _ = select.select([process.stdout], [], [], args.timeout)
        now, cpu = time.monotonic() - t0, group.used() - c0
        chunk = os.read(process.stdout.fileno(), 65536) if ready else b""
        if not chunk:
            hang = not ready
            break
        text += chunk
        line += chunk
        *lines, line = line.split(b"\n")
        for one in lines:
            words = one.decode(errors="replace").split("@@")[-1].split() if b"@@" in one else []
            if words[:2] == ["all", "done"]:
                done = True
            elif len(words) == 2 and words[1] == "begin":
                begun[words[0]] = now, cpu
            elif len(words) == 3 and words[1] == "check":
                results.setdefault(words[0], {})["check"] = words[2]
            elif len(words) == 3 and words[1] == "end":
                wall, used = begun.pop(words[0], (0, 0))
                results[words[0]] = {"wall": now - wall, "cpu": cpu - used, "status": words[2]}
                print(f"  {system:7} {words[0]:9} {now - wall:8.3f} s, processor {cpu - used:8.3f} s"
                      f"{'' if words[2] == '0' else ', STATUS ' + words[2]}", flush=True)
    if hang:
        os.killpg(process.pid, signal.SIGTERM)
    try:
        tail = process.communicate(timeout=20)[0]
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        tail = process.communicate()[0]
    text += tail
    group.remove()
    text = text.decode(errors="replace")
    out = {"system": system, "jobs": results, "done": done, "exit": process.returncode}
    if not done:
        out["stuck"] = next(iter(begun), None)
        out["why"] = f"no output for {args.timeout} s" if hang else f"exit status {process.returncode}"
        out["tail"] = text[-1500:]
    at = text.rfind("\n{")
    try:
        out["stats"] = json.loads(text[at:text.rindex("}") + 1])
    except ValueError:
        pass
    return out, text


def run(system, jobs, args):
    """A run; after a crash the jobs behind the one that crashed get another."""
    jobs, merged = list(jobs), None
    while True:
        if system == "native":
            subprocess.run(f"rm -rf {args.cache}/root/tmp/*", shell=True, check=True)
        out, text = start(system, jobs, args)
        log = args.out.with_suffix(f".{system}.log")
        with log.open("a") as f:
            f.write(f"==== {' '.join(jobs)}\n{text}\n")
        if merged:
            merged["jobs"].update({k: v for k, v in out["jobs"].items() if k != "boot"})
        else:
            merged = out
        if out["done"]:
            break
        failure = out["stuck"] or "boot or exit"
        print(f"  {system:7} FAILED in {failure}: {out['why']}", flush=True)
        merged.setdefault("failures", []).append({k: out[k] for k in ("stuck", "why", "tail")})
        if not out["stuck"]:
            left = [j for j in jobs if j not in out["jobs"]]
            # Died between two jobs: try the others once.
            if "boot" not in out["jobs"] or not left or left == jobs:
                break
            jobs = left
        else:
            jobs = jobs[jobs.index(out["stuck"]) + 1:]
        if not jobs:
            break
    return merged


def geomean(values):
    values = [v for v in values if v and v > 0]
    return math.exp(sum(map(math.log, values)) / len(values)) if values else None


def table(data, metric):
    """Markdown: medians over the repeats."""
    systems = list(dict.fromkeys(r["system"] for r in data["runs"]))

    def value(system, job):
        if (system, job) == ("native", "boot"):
            return None
        good = [r["jobs"][job][metric] for r in data["runs"] if r["system"] == system
                and r["jobs"].get(job, {}).get("status") == "0"]
        return statistics.median(good) if good else None

    def ratio(a, b):
        return a / b if a and b else None

    def show(v, unit=""):
        return "–" if v is None else (f"{v:.2f}" if v < 10 else f"{v:.1f}" if v < 100 else f"{v:.0f}") + unit

    heads, columns = ["job"], []
    for s in systems:
        heads.append(f"{s}, s")
        columns.append(lambda j, s=s: value(s, j))
    for s in systems:
        if s != "native" and "native" in systems:
            heads.append(f"{s} / native")
            columns.append(lambda j, s=s: ratio(value(s, j), value("native", j)))
    for s in systems:
        if s not in ("native", "tcg") and "tcg" in systems:
            heads.append(f"tcg / {s}")
            columns.append(lambda j, s=s: ratio(value("tcg", j), value(s, j)))
    jobs = [j for j in JOBS + EXTRA if any(j in r["jobs"] for r in data["runs"])]
    rows = [[name, *(show(c(j)) for c in columns)] for j, name in (("boot", "boot to init"), *zip(jobs, jobs))]
    for name, some in (("geometric mean, all jobs", [j for j in jobs if j in JOBS]),
                       ("geometric mean, compute", [j for j in jobs if j in COMPUTE])):
        rows.append([name, *("" if n < len(systems) else show(geomean([c(j) for j in some]))
                             for n, c in enumerate(columns))])
    lines = ["| " + " | ".join(heads) + " |", "|" + "---|" * len(heads)]
    lines += ["| " + " | ".join(r) + " |" for r in rows]
    return "\n".join(lines)


def wrong(data):
    """Jobs whose result differs from the first system's, or that failed."""
    found, first = [], {}
    for r in data["runs"]:
        for job, j in r["jobs"].items():
            if "check" in j and j["check"] != first.setdefault(job, j["check"]):
                found.append(f"{r['system']}: {job}: result {j['check']}, not {first[job]}")
            if j.get("status", "0") != "0":
                found.append(f"{r['system']}: {job}: exit status {j['status']}")
        for f in r.get("failures", ()):
            found.append(f"{r['system']}: {f['stuck'] or 'boot or exit'}: {f['why']}")
    return list(dict.fromkeys(found))


def counters(out):
    """The processor's counters as one flat mapping."""
    flat = {}
    stats = out.get("stats", {})
    for counts in stats.get("vcpus", []) + stats.get("engine_counts", []):
        for name, n in counts.items():
            flat[name] = flat.get(name, 0) + n
    return flat


def profile(system, jobs, args):
    """Counters of each job: a machine a job, less a machine with none."""
    base, _ = start(system, [], args)
    zero = counters(base)
    print(f"\n## {system}: boot and shutdown, {base['jobs'].get('boot', {}).get('wall', 0):.2f} s to init")
    print_counters(zero, base.get("stats", {}).get("wall_s", 1))
    for job in jobs:
        out, _ = start(system, [job], args)
        j = out["jobs"].get(job)
        print(f"\n## {system}: {job}: {j['wall'] if j else 0:.2f} s, processor {j['cpu'] if j else 0:.2f} s"
              f"{'' if out['done'] else ', FAILED: ' + out['why']}")
        now = counters(out)
        print_counters({n: v - zero.get(n, 0) for n, v in now.items()}, j["cpu"] if j else 1)


def print_counters(c, seconds):
    for name, v in sorted(c.items(), key=lambda p: (" " in p[0], -p[1])):
        if v > 0 and (" " not in name or v > c.get("interpreted", 0) / 200):
            print(f"    {name:40} {v:14,d} {v / seconds:14,.0f} /s")


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--systems", default="native,tcg,bt", help="of native, tcg, bt, interp, kvm")
    p.add_argument("--jobs", default="", help="comma-separated; all without it")
    p.add_argument("--repeat", type=int, default=1)
    p.add_argument("--cpu-model", default="x86-64-v3", help="of Moinho; TCG has -cpu max")
    p.add_argument("--moinho", default=str(HERE.parents[1] / "target/release/moinho"))
    p.add_argument("--moinho-args", default="", help="more options for moinho run")
    p.add_argument("--append", default="", help="more of the kernel's command line")
    p.add_argument("--memory", default="1G")
    p.add_argument("--timeout", type=float, default=300, help="seconds without output that are a hang")
    p.add_argument("--cache", type=Path, default=CACHE / "yardstick")
    p.add_argument("--out", type=Path, default=Path("yardstick.json"))
    p.add_argument("--metric", choices=("wall", "cpu"), default="wall")
    p.add_argument("--profile", action="store_true", help="counters of each job instead of the table")
    p.add_argument("--perf", metavar="FILE", help="run Moinho under perf record")
    p.add_argument("--table", type=Path, help="print the table of a JSON file")
    args = p.parse_args()
    if args.table:
        data = json.loads(args.table.read_text())
        print(table(data, args.metric), *wrong(data), sep="\n")
        return
    args.perf_record = ["perf", "record", "-o", args.perf, "-F", "997", "-g", "--"] if args.perf else []
    jobs = args.jobs.split(",") if args.jobs else JOBS
    unknown = [j for j in jobs if j not in JOBS + EXTRA]
    if unknown:
        p.error(f"--jobs: no {', '.join(unknown)}; there are {', '.join(JOBS + EXTRA)}")
    if not (CACHE / "linux/vmlinuz").exists():
        subprocess.run([args.moinho, "run", "linux", "--", "true"], check=True, stdin=subprocess.DEVNULL)
    if args.profile:
        for system in args.systems.split(","):
            if system not in ("native", "tcg"):
                profile(system, jobs, args)
        return
    git = subprocess.run(["git", "-C", HERE, "rev-parse", "--short", "HEAD"], capture_output=True, text=True)
    cpu = next((l.split(":")[1].strip() for l in open("/proc/cpuinfo") if l.startswith("model name")), "?")
    data = {"date": datetime.datetime.now().isoformat(timespec="seconds"), "cpu": cpu,
            "commit": git.stdout.strip(), "load_before": os.getloadavg(), "cpu_model": args.cpu_model,
            "runs": []}
    for n in range(args.repeat):
        for system in args.systems.split(","):
            print(f"{system}, run {n + 1} of {args.repeat}, load {os.getloadavg()[0]:.1f}", flush=True)
            data["runs"].append(run(system, jobs, args))
            data["load_after"] = os.getloadavg()
            args.out.write_text(json.dumps(data, indent=1))
    print()
    print(f"{data['date']}, {cpu}, {os.cpu_count()} processors, commit {data['commit']}, "
          f"load {data['load_before'][0]:.1f} to {data['load_after'][0]:.1f}, {args.repeat} runs; {args.metric} time\n")
    print(table(data, args.metric))
    for line in wrong(data):
        print(f"- {line}")


if __name__ == "__main__":
    sys.exit(main())
