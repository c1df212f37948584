#!/usr/bin/env python3
"""A stock Debian userland at work under Moinho, its answers held against the hardware's.

Runs guest.sh natively (in a chroot) and in guests, and compares every line of every job. What
differs under one engine is run again under the interpreter, to see whose fault it is.

    prepare.sh && run.py                                  bt, 1 and 2 processors, both CPU models
    run.py --jobs stress --stress vm,matrix --cpus 2      less
    run.py --engines interp --jobs vectors
    run.py --log FOLDER                                   where the output of each run goes

Exit status 0: no difference. Needs root (chroot) and what prepare.sh made.
"""
import argparse, fcntl, os, re, select, signal, subprocess, sys, time
from pathlib import Path

HERE = Path(__file__).resolve().parent
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "moinho"
APPEND = "console=ttyS0 panic=-1 quiet cryptomgr.notests"


def settings(args, more=None):
    words = {"JOBS": args.jobs, "STRESS": args.stress, "EVP": args.evp, **(more or {})}
    return [f"{name}={value}" for name, value in words.items() if value]


def command(system, args, words):
    if system == "native":
        # Mounts of its own, which end with it.
        mounts = 'mount --rbind /proc "$0/proc" && mount --rbind /dev "$0/dev" && exec chroot "$0" "$@"'
        return ["unshare", "--mount", "--propagation", "slave", "sh", "-c", mounts, str(args.cache / "root"),
                "/usr/bin/env", "-i", *words, "/bin/sh", "/guest.sh"]
    engine, cpus, model = system
    kernel, initrd, disk = (str(p) for p in
                            (CACHE / "linux/vmlinuz", CACHE / "linux/initrd", args.cache / "disk.img"))
    append = f'{APPEND} {args.append} "moinho.run=sh /mnt/guest-init.sh {" ".join(words)}"'
    return [args.moinho, "run", "--engine", engine, "--cpus", str(cpus), "--cpu-model", model, "-m", args.memory,
            "--disk", f"{disk},cow", "--no-reboot", "--stats", *args.moinho_args.split(),
            "--kernel", kernel, "--initrd", initrd, "--append", append]


def name(system):
    return system if isinstance(system, str) else f"{system[0]}, {system[1]} cpus, {system[2]}"


def run(system, args, more=None, quiet=False):
    """One run: the lines of each job, and what went wrong with the run itself."""
    words = settings(args, more)
    if system == "native":
        subprocess.run(f"rm -rf {args.cache}/root/tmp/*", shell=True, check=True)
    process = subprocess.Popen(command(system, args, words), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                               stderr=subprocess.STDOUT, start_new_session=True)
    log = None
    if args.log:
        args.log.mkdir(parents=True, exist_ok=True)
        log = args.log / (re.sub(r"\W+", "-", name(system)) + ("-again" if quiet else "") + ".log")
        log.write_bytes(b"")
    jobs, job, begun, done, hang, line, text = {}, None, 0, False, False, b"", bytearray()
    while True:
        ready, _, _ = select.select([process.stdout], [], [], args.timeout)
        chunk = os.read(process.stdout.fileno(), 65536) if ready else b""
        if not chunk:
            hang = not ready
            break
        text += chunk
        if log:
            with log.open("ab") as file:
                file.write(chunk)
        *lines, line = (line + chunk).split(b"\n")
        for one in lines:
            one = one.decode(errors="replace").rstrip("\r")
            if (found := re.match(r"@@ (\w+) begin", one)):
                job, begun = found[1], time.monotonic()
                jobs[job] = []
            elif re.match(r"@@ (\w+) end", one):
                if not quiet:
                    print(f"  {name(system):24} {job:10} {len(jobs[job]):5} lines {time.monotonic() - begun:8.1f} s", flush=True)
                job = None
            elif one.startswith("@@ all done"):
                done = True
            elif one.startswith("@= ") and job:
                jobs[job].append(one[3:])
    if hang:
        os.killpg(process.pid, signal.SIGTERM)
    try:
        text += process.communicate(timeout=20)[0]
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        text += process.communicate()[0]
    if log:
        log.write_bytes(text)
    problem = None
    if hang:
        problem = f"no output for {args.timeout} s in {job or 'boot or exit'}"
    elif not done or process.returncode:
        problem = f"exit status {process.returncode} in {job or 'boot or exit'}: {text[-400:].decode(errors='replace')}"
    return jobs, problem


def differences(jobs, native):
    """Lines that differ, by job: (position, here, native)."""
    found = {}
    for job, lines in native.items():
        here = jobs.get(job, [])
        for n in range(max(len(lines), len(here))):
            a, b = (part[n] if n < len(part) else "(nothing)" for part in (here, lines))
            if a != b:
                found.setdefault(job, []).append((n, a, b))
    return found


def show(found, limit=12):
    for job, lines in found.items():
        for n, here, native in lines[:limit]:
            print(f"    {job} line {n + 1}: {here!r}\n        native: {native!r}")
        if len(lines) > limit:
            print(f"    {job}: {len(lines) - limit} more")


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--engines", default="bt")
    p.add_argument("--cpus", default="1,2")
    p.add_argument("--cpu-models", default="x86-64-v2,x86-64-v3")
    p.add_argument("--jobs", default="", help="comma-separated; all without it")
    p.add_argument("--stress", default="", help="stressors of the job stress")
    p.add_argument("--evp", default="", help="files of the job vectors")
    p.add_argument("--moinho", default=str(HERE.parents[1] / "target/release/moinho"))
    p.add_argument("--moinho-args", default="", help="more options for moinho run")
    p.add_argument("--append", default="", help="more of the kernel's command line")
    p.add_argument("--memory", default="1G")
    p.add_argument("--timeout", type=float, default=600, help="seconds without output that are a hang")
    p.add_argument("--cache", type=Path, default=CACHE / "userland")
    p.add_argument("--log", type=Path, default=None)
    args = p.parse_args()
    if not (args.cache / "root").is_dir():
        sys.exit(f"no userland in {args.cache}: run prepare.sh first")
    # Natively the jobs work in one folder.
    running = open(args.cache / "run.lock", "w")
    try:
        fcntl.flock(running, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        sys.exit(f"another run.py works in {args.cache}; wait for it, or give --cache FOLDER")
    if not (CACHE / "linux/vmlinuz").exists():
        subprocess.run([args.moinho, "run", "linux", "--", "true"], check=True, stdin=subprocess.DEVNULL)
    native, problem = run("native", args)
    if problem:
        sys.exit(f"native: {problem}")
    bad = 0
    for engine in args.engines.split(","):
        for model in args.cpu_models.split(","):
            for cpus in args.cpus.split(","):
                system = engine, int(cpus), model
                jobs, problem = run(system, args)
                found = differences(jobs, native)
                if problem:
                    print(f"{name(system)}: FAILED: {problem}")
                print(f"{name(system)}: {sum(map(len, native.values()))} lines, {sum(map(len, found.values()))} differ")
                show(found)
                bad += bool(found or problem)
                if found and engine != "interp":
                    other, trouble = run(("interp", int(cpus), model), args, {"JOBS": ",".join(found)}, quiet=True)
                    print(f"  the same jobs under interp{': ' + trouble if trouble else ''}:")
                    same = differences(other, {job: native[job] for job in found})
                    show(same) if same else print("    no difference: the fault is the engine's")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
