#!/usr/bin/env bash
# Runs the built-in guest under the instruction clock, which makes a run repeatable, records what
# it does to its devices, and shows what the run has cost.
set -eu
cd "$(dirname "$0")/.."
trace=$(mktemp)
trap 'rm -f "$trace"' EXIT
echo poweroff | cargo run --release -q -- run --memory 64M --clock insn --trace io,irq,fault:"$trace" --stats
echo
echo "$(wc -l <"$trace") events; the first writes to COM1 and the last events:"
grep -m3 'out1 0x3f8' "$trace"
tail -3 "$trace"
