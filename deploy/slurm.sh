#!/usr/bin/env bash
# One training run on several nodes of a Slurm cluster, with a Ray cluster of its own:
#
#   sbatch --nodes 3 --cpus-per-task 16 deploy/slurm.sh train half-cheetah-vel --output /shared/runs/a
#   sbatch --nodes 3 --cpus-per-task 16 deploy/slurm.sh train --resume /shared/runs/a
#
# The arguments are those of maml-rl; --output must be a folder that the login node sees, too, or a URI. The
# package is installed where VENV says, at the same place on all nodes.
#SBATCH --job-name maml-rl
#SBATCH --ntasks-per-node 1
#SBATCH --signal B:TERM@120
#SBATCH --time 24:00:00
set -euo pipefail

VENV=${VENV:-$SLURM_SUBMIT_DIR/.venv}
# One job's Ray has nothing to do with another's on the same node: a port and a token of its own.
PORT=$((20000 + SLURM_JOB_ID % 20000))
export RAY_AUTH_MODE=token RAY_AUTH_TOKEN
RAY_AUTH_TOKEN=$(od -An -N32 -tx1 /dev/urandom | tr -d ' \n')
export OMP_NUM_THREADS=1

mapfile -t NODES < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
HEAD=${NODES[0]}
CPUS=${SLURM_CPUS_PER_TASK:-1}
on() {  # NODE COMMAND ...: a task on that node, always in a subshell, which becomes srun: a signal reaches it
    exec srun --nodes 1 --ntasks 1 --nodelist "$1" --export ALL "${@:2}"
}

ADDRESS=$(on "$HEAD" hostname --ip-address | awk '{print $1}')
on "$HEAD" "$VENV/bin/ray" start --head --block --node-ip-address "$ADDRESS" --port "$PORT" \
    --num-cpus "$CPUS" --include-dashboard false &
for node in "${NODES[@]:1}"; do
    on "$node" "$VENV/bin/ray" start --block --address "$ADDRESS:$PORT" --num-cpus "$CPUS" &
done

# Until every node has joined: what Ray counts in the meantime would be too few runners.
for _ in $(seq 60); do
    sleep 2
    joined=$("$VENV/bin/python" - "$ADDRESS:$PORT" <<'PYTHON' 2> /dev/null || true
import sys
import ray
ray.init(sys.argv[1], log_to_driver=False)
print(sum(node["Alive"] for node in ray.nodes()))
PYTHON
    )
    [ "${joined:-0}" = "${#NODES[@]}" ] && break
done

# At Slurm's time limit the run ends after its iteration, with a checkpoint.
"$VENV/bin/maml-rl" "$@" --address "$ADDRESS:$PORT" &
RUN=$!
trap 'kill -TERM "$RUN"' TERM
status=0
wait "$RUN" || status=$?
[ "$status" -gt 128 ] && { wait "$RUN" && status=0 || status=$?; }
kill $(jobs -p) 2> /dev/null || true
exit "$status"
