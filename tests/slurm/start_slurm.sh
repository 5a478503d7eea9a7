#!/usr/bin/env bash
# A Slurm of one node on this machine, for tests: from Debian's packages, as root, also in a container without cgroups.
#
#     eval "$(tests/slurm/start_slurm.sh)"     # starts it, or finds it running; sets SLURM_CONF for this shell
#     sbatch --array=0-3 job.sh
#     tests/slurm/stop_slurm.sh
#
# Key, state, sockets and logs lie in $SLURM_TEST_DIR (default: slurm-test in the folder for temporary files). Beside
# installing the packages nothing outside is touched, and a Slurm that the machine belongs to is not disturbed: ports are
# free ones. CPUs and two GPUs are declared, not counted, so that several jobs of several tasks run on a small machine.
set -euo pipefail

dir=${SLURM_TEST_DIR:-${TMPDIR:-/tmp}/slurm-test}
cpus=${SLURM_TEST_CPUS:-4}

fail() {
    echo "start_slurm.sh: $*" >&2
    exit 1
}

alive() { # DAEMON: whether it runs; the command line tells it from a zombie, and from another of that number
    [ -s "$dir/$1.pid" ] && grep -qs "$1" "/proc/$(cat "$dir/$1.pid")/cmdline"
}

wait_for() { # WHAT COMMAND...: until the command succeeds, half a minute at most
    local what=$1
    shift
    for _ in $(seq 150); do
        "$@" >/dev/null 2>&1 && return
        sleep 0.2
    done
    tail -n 5 "$dir"/*.log >&2 || true
    fail "$what did not come up within 30 s; logs are in $dir"
}

node_is_up() { sinfo --noheader --format=%T | grep -qxE 'idle|mixed|allocated|completing'; }

install() {
    local packages=(munge slurmctld slurmd slurm-client)
    command -v munged slurmctld slurmd sbatch >/dev/null && return
    command -v apt-get >/dev/null || fail "no Slurm here and no apt-get to install it: needs ${packages[*]}"
    echo "start_slurm.sh: installing ${packages[*]}" >&2
    # RUNLEVEL=1 keeps the packages from starting services of their own.
    { apt-get update -qq && DEBIAN_FRONTEND=noninteractive RUNLEVEL=1 apt-get install -y -qq --no-install-recommends \
        "${packages[@]}"; } >&2 || fail "could not install ${packages[*]}: is there a network, or a mirror?"
}

write_config() {
    local ports host
    host=$(hostname -s)
    ports=($(python3 -c '
import socket
sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(2)]
print(*(s.getsockname()[1] for s in sockets))'))
    printf 'Name=gpu File=%s\n' /dev/null /dev/zero >"$dir/gres.conf" # any two devices
    cat >"$SLURM_CONF" <<CONF
ClusterName=test
SlurmctldHost=$host(127.0.0.1)
SlurmUser=root
SlurmdUser=root
SlurmctldPort=${ports[0]}
SlurmdPort=${ports[1]}
AuthType=auth/munge
AuthInfo=socket=$dir/munge.socket
CredType=cred/munge
StateSaveLocation=$dir/state
SlurmdSpoolDir=$dir/spool
SlurmctldPidFile=$dir/slurmctld.pid
SlurmdPidFile=$dir/slurmd.pid
SlurmctldLogFile=$dir/slurmctld.log
SlurmdLogFile=$dir/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MpiDefault=none
GresTypes=gpu
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SlurmdParameters=config_overrides
SchedulerParameters=batch_sched_delay=0,sched_min_interval=0
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
JobRequeue=1
ReturnToService=2
KillWait=5
NodeName=$host NodeAddr=127.0.0.1 CPUs=$cpus Gres=gpu:2 State=UNKNOWN
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE PriorityTier=1 GraceTime=10 State=UP
PartitionName=urgent Nodes=ALL MaxTime=INFINITE PriorityTier=2 PreemptMode=OFF State=UP
CONF
}

start() {
    mkdir -p "$dir/state" "$dir/spool"
    chmod 755 "$dir"
    [ -s "$dir/munge.key" ] || (umask 077 && head -c 128 /dev/urandom >"$dir/munge.key")
    alive munged || munged --force --key-file="$dir/munge.key" --socket="$dir/munge.socket" \
        --pid-file="$dir/munged.pid" --log-file="$dir/munged.log" --seed-file="$dir/munge.seed"
    wait_for munged munge --no-input --socket="$dir/munge.socket"
    [ -s "$SLURM_CONF" ] || write_config
    alive slurmctld || slurmctld -f "$SLURM_CONF"
    wait_for slurmctld scontrol ping
    alive slurmd || slurmd -f "$SLURM_CONF"
    wait_for "the node" node_is_up
}

[ "$(id -u)" = 0 ] || fail "needs root, to install packages and to start jobs: run it in a container"
install
export SLURM_CONF=$dir/slurm.conf
start >&2
echo "export SLURM_CONF=$SLURM_CONF"
