#!/usr/bin/env bash
# sbatch docs/clusters/slurm.sh CONFIG WORKDIR [more flags]
# One task per GPU; JAX finds coordinator, number and index of the processes in Slurm's environment.
#SBATCH --job-name=moejax
#SBATCH --nodes=4
#SBATCH --ntasks-per-node=8
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=8
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --signal=TERM@120
#SBATCH --output=%x-%j.log
set -euo pipefail
config=${1:?a config, such as configs/vit/patchwork.py:model=vmoe}
workdir=${2:?a folder that all nodes see}
shift 2

# When one task fails, Slurm ends the others; the run goes on from its last checkpoint when the job is queued again.
code=0
srun --kill-on-bad-exit=1 .venv/bin/python experiments/train.py --config "$config" --workdir "$workdir" \
  --grace_seconds 110 --preemption_exit_code 143 "$@" || code=$?

# 143: stopped by SIGTERM with all saved. Slurm queues a job again that it has pre-empted, but not one whose time is up.
if [[ $code -eq 143 && -n ${SLURM_JOB_ID:-} ]]; then scontrol requeue "$SLURM_JOB_ID"; fi
exit "$code"
