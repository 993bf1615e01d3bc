#!/usr/bin/env bash
# slurm_down.sh DIR: ends what slurm_up.sh DIR has started, and waits for it.
set -u
for daemon in slurmd slurmctld munged; do
  pid=$(cat "$1/run/$daemon.pid" 2>/dev/null) || continue
  kill "$pid" 2>/dev/null
  for _ in $(seq 150); do
    kill -0 "$pid" 2>/dev/null || break
    sleep 0.1
  done
  kill -9 "$pid" 2>/dev/null
done
exit 0
