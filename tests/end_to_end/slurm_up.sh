#!/usr/bin/env bash
# slurm_up.sh DIR [cpus]: a private Slurm of one node, this machine, for tests; everything it writes is in DIR. As root.
# Then: export SLURM_CONF=DIR/slurm.conf. slurm_down.sh DIR ends it.
set -eu
dir=$1 cpus=${2:-4} host=$(hostname -s)
mkdir -p "$dir"/{munge,state,run,log,spool,tmp}
chmod 700 "$dir/munge"
head -c 128 /dev/urandom >"$dir/munge/key"
chmod 400 "$dir/munge/key"
munged --force --key-file="$dir/munge/key" --socket="$dir/run/munge.sock" --pid-file="$dir/run/munged.pid" \
  --log-file="$dir/munge/log" --seed-file="$dir/munge/seed"
# cred_expire (5 s at least) is also how long a requeued job waits; config_overrides allows more CPUs than there are.
cat >"$dir/slurm.conf" <<X
ClusterName=apb
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=26817
SlurmdPort=26818
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket=$dir/run/munge.sock,cred_expire=5
StateSaveLocation=$dir/state
SlurmdSpoolDir=$dir/spool
TmpFS=$dir/tmp
SlurmctldPidFile=$dir/run/slurmctld.pid
SlurmdPidFile=$dir/run/slurmd.pid
SlurmctldLogFile=$dir/log/slurmctld.log
SlurmdLogFile=$dir/log/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
MpiDefault=pmix
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerParameters=batch_sched_delay=0,bf_interval=1,sched_interval=1
ReturnToService=2
SlurmdParameters=config_overrides
KillWait=5
MailProg=/bin/true
NodeName=$host NodeAddr=127.0.0.1 CPUs=$cpus Boards=1 SocketsPerBoard=1 CoresPerSocket=$cpus ThreadsPerCore=1
PartitionName=main Nodes=ALL Default=YES DefaultTime=10 MaxTime=INFINITE State=UP
X
export SLURM_CONF=$dir/slurm.conf
slurmctld -c -f "$SLURM_CONF"
slurmd -f "$SLURM_CONF"
for _ in $(seq 150); do
  [ "$(sinfo -hN -o %T 2>/dev/null)" = idle ] && exit 0
  sleep 0.1
done
echo "slurm_up.sh: the node is not idle after 15 s" >&2
tail -n 5 "$dir"/log/*.log >&2
exit 1
