#!/usr/bin/env bash
# A Ray cluster inside a Slurm allocation, and a job on it; everything ends with the job.
#
#     sbatch clusters/slurm.sh jobs/pretrain_videomae.py table=/shared/tables/mine results=/shared fleet.workers=16 fleet.storage=shared
#
# To be submitted from the repository, on a file system that all nodes see, with its .venv built (`make env`).
#SBATCH --job-name=marey
#SBATCH --nodes=4
#SBATCH --ntasks-per-node=1
#SBATCH --exclusive
#SBATCH --gpus-per-node=4
#SBATCH --time=24:00:00
#SBATCH --signal=B:TERM@120
set -euo pipefail

[ $# -gt 0 ] || { echo "usage: sbatch clusters/slurm.sh jobs/JOB.py [path=value ...]" >&2; exit 2; }
: "${SLURM_JOB_ID:?this script is for sbatch}"

# Above the ports of Ray's workers (10002 to 19999), below those that the kernel hands out.
port="${MAREY_RAY_PORT:-$((20000 + SLURM_JOB_ID % 5000))}"
dashboard=$((port + 5000))
export PATH="${MAREY_ENV:-$PWD/.venv}/bin:$PATH"
export RAY_AUTH_MODE=token RAY_JOB_STOP_WAIT_TIME_S=60

# Nobody without this token joins or submits, whoever else is on these nodes. Only its owner can read it.
private="$(mktemp -d "$PWD/.marey-slurm-$SLURM_JOB_ID-XXXXXX")"
chmod 700 "$private"
export RAY_AUTH_TOKEN_PATH="$private/token"
(umask 077; python -c 'import secrets; print(secrets.token_hex(32), end="")' > "$RAY_AUTH_TOKEN_PATH")

mapfile -t nodes < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
head="${nodes[0]}"
address="$(srun --nodes=1 --ntasks=1 --nodelist="$head" hostname -I | awk '{print $1}')"

tasks=()
stop() {
    trap - EXIT TERM INT
    [ -z "${client:-}" ] || kill -TERM "$client" 2> /dev/null || true
    [ ${#tasks[@]} -eq 0 ] || kill "${tasks[@]}" 2> /dev/null || true
    wait || true
    rm -rf "$private"
}
trap stop EXIT
trap 'ray job stop --address "http://$address:$dashboard" "marey-$SLURM_JOB_ID" || true; exit 143' TERM INT

srun --nodes=1 --ntasks=1 --nodelist="$head" \
    ray start --head --block --node-ip-address="$address" --port="$port" \
    --dashboard-host="$address" --dashboard-port="$dashboard" --disable-usage-stats &
tasks+=($!)
export RAY_ADDRESS="http://$address:$dashboard"
for _ in $(seq 90); do
    ray job list > /dev/null 2>&1 && break
    kill -0 "${tasks[0]}" 2> /dev/null || { echo "the head on $head did not start" >&2; exit 1; }
    sleep 2
done

if [ ${#nodes[@]} -gt 1 ]; then
    workers="$(IFS=,; echo "${nodes[*]:1}")"
    srun --nodes=$((${#nodes[@]} - 1)) --ntasks=$((${#nodes[@]} - 1)) --nodelist="$workers" \
        ray start --block --address="$address:$port" --disable-usage-stats &
    tasks+=($!)
fi

# All nodes first: a job that starts on the half of them takes its shares from that half.
RAY_ADDRESS="$address:$port" python - "${#nodes[@]}" << 'PYTHON'
import sys, time
import ray

ray.init(log_to_driver=False)
deadline = time.monotonic() + 300
while (alive := sum(node["Alive"] for node in ray.nodes())) < int(sys.argv[1]):
    if time.monotonic() > deadline:
        sys.exit(f"{alive} of {sys.argv[1]} nodes have joined after 5 minutes")
    time.sleep(1)
PYTHON

ray job submit --submission-id "marey-$SLURM_JOB_ID" --working-dir . -- python "$@" &
client=$!
wait "$client"
