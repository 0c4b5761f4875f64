#!/usr/bin/env bash
# Start a real SLURM of one node on this machine, for tests and for trying things out.
#
#     deploy/slurm/one-node/start.sh DIRECTORY [CPUS [MEMORY_MB]]
#     . DIRECTORY/env.sh        # then sinfo, sbatch, squeue, ... talk to it
#     deploy/slurm/one-node/stop.sh DIRECTORY
#
# Needs root and Debian's packages slurmctld, slurmd, slurm-client and munge. Configuration, state,
# logs and sockets are all in DIRECTORY; nothing is read from or written to /etc. The daemons listen
# on the loopback interface only. CPUS (default 8) and MEMORY_MB (default: what is there) are what
# SLURM believes in: more CPUs than there are let several jobs run at once on a small machine.
set -euo pipefail

die() { echo "start.sh: $*" >&2; exit 1; }

[ $# -ge 1 ] && [ $# -le 3 ] || die "expected DIRECTORY [CPUS [MEMORY_MB]]"
[ "$(id -u)" = 0 ] || die "must be root: munged and slurmd run as root"
mkdir -p "$1"
root=$(realpath "$1")
cpus=${2:-8}
memory=${3:-$(awk '/^MemTotal/ {print int($2 / 1024)}' /proc/meminfo)}
PATH=$PATH:/usr/sbin:/sbin
for program in munged slurmctld slurmd sinfo; do
    command -v "$program" >/dev/null || die "$program not found; apt-get install slurmctld slurmd slurm-client munge"
done
# Unix sockets have names of at most 107 characters; slurmd's are in spool/.
[ ${#root} -le 60 ] || die "$root: the path is too long for Unix sockets, expected at most 60 characters"
[ ! -e "$root/env.sh" ] || die "$root/env.sh exists: it runs already, or was not stopped with stop.sh"

mkdir -p "$root"/{munge,state,spool,log,run}
chmod 700 "$root/munge"
chmod 755 "$root" "$root/run"

# From here on a failure takes down what was started.
here=$(dirname "$(realpath "$0")")
started=no
trap '[ $started = yes ] || { tail -n 5 "$root"/log/*.log >&2 || true; "$here/stop.sh" "$root" >&2 || true; }' EXIT

# -- munge: proves to the daemons who is talking --
[ -e "$root/munge/key" ] || { (umask 077; head -c 1024 /dev/urandom >"$root/munge/key"); }
munged --socket="$root/run/munge.socket" --key-file="$root/munge/key" \
    --pid-file="$root/run/munged.pid" --log-file="$root/log/munged.log" \
    --seed-file="$root/munge/seed" --num-threads=2

# -- SLURM --
read -r ctld_port slurmd_port < <(python3 - <<'PY'
import socket
held = [socket.socket() for _ in range(2)]
for s in held:
    s.bind(("127.0.0.1", 0))
print(*(s.getsockname()[1] for s in held))
PY
)
host=$(hostname -s)
cat >"$root/slurm.conf" <<CONF
ClusterName=onenode
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=$ctld_port
SlurmdPort=$slurmd_port
# Loopback only.
CommunicationParameters=NoCtldInAddrAny,NoInAddrAny
AuthType=auth/munge
AuthInfo=socket=$root/run/munge.socket
CredType=cred/munge
SlurmUser=root
SlurmdUser=root
StateSaveLocation=$root/state
SlurmdSpoolDir=$root/spool
SlurmctldPidFile=$root/run/slurmctld.pid
SlurmdPidFile=$root/run/slurmd.pid
SlurmctldLogFile=$root/log/slurmctld.log
SlurmdLogFile=$root/log/slurmd.log
# No cgroups: works in containers.
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/filetxt
JobCompLoc=$root/log/jobs.txt
MpiDefault=none
SwitchType=switch/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
SchedulerType=sched/backfill
SchedulerParameters=sched_interval=5,bf_interval=5,batch_sched_delay=0
SlurmdParameters=config_overrides
ReturnToService=2
# Short waits: this is for tests.
KillWait=5
InactiveLimit=0
MinJobAge=600
SlurmctldTimeout=30
SlurmdTimeout=60
DefMemPerCPU=$((memory / cpus))
NodeName=one NodeHostname=$host NodeAddr=127.0.0.1 CPUs=$cpus RealMemory=$memory State=UNKNOWN
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP
CONF
export SLURM_CONF=$root/slurm.conf
slurmctld -f "$SLURM_CONF"
slurmd -N one -f "$SLURM_CONF"

for _ in $(seq 100); do
    [ "$(sinfo -h -o %T 2>/dev/null)" = idle ] && break
    sleep 0.2
done
[ "$(sinfo -h -o %T)" = idle ] || die "the node did not become idle: $(sinfo -h -o '%T %E')"
printf 'export SLURM_CONF=%q\n' "$SLURM_CONF" >"$root/env.sh"
started=yes
echo "SLURM with one node of $cpus CPUs and $memory MB runs in $root"
echo "to use it:   . $root/env.sh"
echo "to stop it:  $here/stop.sh $root"
