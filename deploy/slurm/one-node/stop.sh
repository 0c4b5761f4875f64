#!/usr/bin/env bash
# Stop the SLURM that start.sh has started in DIRECTORY: its jobs are cancelled, its daemons end.
#
#     deploy/slurm/one-node/stop.sh DIRECTORY
#
# Logs stay. Only processes named by the pid files in DIRECTORY are ended.
set -euo pipefail
[ $# = 1 ] && [ -d "$1" ] || { echo "stop.sh: expected the DIRECTORY that start.sh was given" >&2; exit 1; }
root=$(realpath "$1")
export SLURM_CONF=$root/slurm.conf
PATH=$PATH:/usr/sbin:/sbin

if [ -e "$root/env.sh" ]; then
    squeue -h -o %A 2>/dev/null | xargs -r scancel || true
    for _ in $(seq 50); do # their processes get SIGTERM, and SIGKILL 5 s later
        [ -z "$(squeue -h 2>/dev/null)" ] && break
        sleep 0.2
    done
fi

left=0
for daemon in slurmctld slurmd munged; do
    pid=$(cat "$root/run/$daemon.pid" 2>/dev/null) || continue
    # The number may have been given to another program since.
    [ "$(cat "/proc/$pid/comm" 2>/dev/null)" = "$daemon" ] || continue
    kill "$pid" 2>/dev/null || true
    for i in $(seq 100); do
        kill -0 "$pid" 2>/dev/null || break
        [ "$i" -lt 75 ] || kill -9 "$pid" 2>/dev/null || true
        sleep 0.2
    done
    if kill -0 "$pid" 2>/dev/null; then
        echo "stop.sh: $daemon (process $pid) does not end" >&2
        left=1
    fi
done
[ $left = 0 ] || exit 1
rm -f "$root/env.sh" "$root"/run/*
echo "SLURM in $root has stopped"
