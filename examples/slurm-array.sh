#!/bin/bash
# One job on a Slurm array: sbatch examples/slurm-array.sh
# A task whose time runs out gets SIGUSR1 two minutes before, finishes its blocks, leaves with 75 and is requeued. A task that is
# done takes over what is left, so that tasks which died or never started leave no hole.
#SBATCH --job-name=gaitcrafter
#SBATCH --array=0-99
#SBATCH --cpus-per-task=16
#SBATCH --mem=16G
#SBATCH --time=12:00:00
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --signal=B:USR1@120
#SBATCH --output=gaitcrafter-%A_%a.log
set -u

OUT=${OUT:-/shared/train}
RANK=$((SLURM_ARRAY_TASK_ID - SLURM_ARRAY_TASK_MIN))

gaitcrafter-rt generate "$OUT" \
  --identities all --views all --covariates all --n 10000000 --seed 7 \
  --workers auto --grace 60 \
  --rank "$RANK" --world-size "$SLURM_ARRAY_TASK_COUNT" &
child=$!

# Slurm tells the batch shell alone; the job must hear it too.
trap 'kill -USR1 "$child" 2>/dev/null' USR1
trap 'kill -TERM "$child" 2>/dev/null' TERM INT

# A signal ends wait, not the job.
wait "$child"
code=$?
while kill -0 "$child" 2>/dev/null; do
  wait "$child"
  code=$?
done

if [ "$code" -eq 75 ] && [ "${SLURM_RESTART_COUNT:-0}" -lt 20 ]; then
  scontrol requeue "${SLURM_ARRAY_JOB_ID}_${SLURM_ARRAY_TASK_ID}"
fi
exit "$code"
