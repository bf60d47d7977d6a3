#!/usr/bin/env bash
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=16
#SBATCH --time=24:00:00
#SBATCH --signal=B:TERM@120
#
# Start Ray on the nodes of a Slurm allocation and run a command of bench with --address:
#
#   sbatch docs/slurm.sh python -m bench run --methods all --seeds 50 --preset paper --out /shared/study
#
# Nodes share --out and BENCH_CACHE. For GPUs add --gpus-per-node=4 to sbatch and --gpus-per-cell to the command. Two
# minutes before the time limit cells write a checkpoint: submit the same line again to go on.
set -euo pipefail

cpus=${SLURM_CPUS_PER_TASK:-$(nproc)}
port=${RAY_PORT:-$((20000 + SLURM_JOB_ID % 10000))}
export RAY_AUTH_MODE=token # other users of the network cannot run code in this cluster
RAY_AUTH_TOKEN=${RAY_AUTH_TOKEN:-$(od -An -N16 -tx1 /dev/urandom | tr -d ' ')}
export RAY_AUTH_TOKEN
mapfile -t nodes < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
# Its uses are in subshells, which it replaces.
on() { exec srun --nodes=1 --ntasks=1 --overlap --nodelist="$1" "${@:2}"; }

ip=$(on "${nodes[0]}" hostname --ip-address | awk '{ print $1 }')
address=$ip:$port
started=() # with --block Ray ends on a node when its srun does
on "${nodes[0]}" ray start --head --block --disable-usage-stats --node-ip-address="$ip" --port="$port" \
    --num-cpus="$cpus" &
started+=($!)
trap 'kill "${started[@]}" 2>/dev/null; wait' EXIT
for _ in {1..60}; do
    ray status --address="$address" >/dev/null 2>&1 && break
    sleep 2
done
for node in "${nodes[@]:1}"; do
    on "$node" ray start --block --disable-usage-stats --address="$address" --num-cpus="$cpus" &
    started+=($!)
done

"$@" --address "$address" & # nodes that join later get cells, too
command=$!
trap 'kill -TERM "$command"' TERM INT
status=0
wait "$command" || status=$?
while kill -0 "$command" 2>/dev/null; do # the signal ended only the wait
    status=0
    wait "$command" || status=$?
done
exit "$status"
