#!/usr/bin/env bash
# Ends the Slurm that start_slurm.sh started, its jobs included, and removes its folder.
set -euo pipefail

dir=${SLURM_TEST_DIR:-${TMPDIR:-/tmp}/slurm-test}
export SLURM_CONF=$dir/slurm.conf
[ -s "$SLURM_CONF" ] || exit 0

queue_is_empty() { [ -z "$(squeue --noheader 2>/dev/null)" ]; }
alive() { [ -s "$dir/$1.pid" ] && grep -qs "$1" "/proc/$(cat "$dir/$1.pid" 2>/dev/null)/cmdline"; }

scancel --user="$(id -un)" 2>/dev/null || true
for _ in $(seq 100); do queue_is_empty && break || sleep 0.2; done
for daemon in slurmd slurmctld munged; do
    ! alive "$daemon" || kill "$(cat "$dir/$daemon.pid")"
    for _ in $(seq 100); do alive "$daemon" && sleep 0.2 || break; done
done
rm -rf "$dir"
