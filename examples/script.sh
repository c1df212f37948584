#!/usr/bin/env bash
# Runs one command in Linux without anybody at the terminal:
#   examples/script.sh 'cat /proc/cpuinfo'
# The guest prints "moinho.run: exit status N" and switches itself off.
set -eu
cd "$(dirname "$0")/.."
cargo run --release -q -- run linux -- "${1:-uname -a; free -m; cat /proc/interrupts}" </dev/null
