#!/bin/bash
# One training on several nodes of a SLURM cluster: sbatch train_slurm.sh
# A node gets one task for each of its GPUs; srun tells them how to find each other.
#SBATCH --job-name=jfreq
#SBATCH --nodes=4
#SBATCH --ntasks-per-node=8
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=8
#SBATCH --time=24:00:00
#SBATCH --requeue
#SBATCH --signal=TERM@300
#SBATCH --open-mode=append
#SBATCH --output=%x-%j.log

set -euo pipefail

# A folder that all nodes see.
SHARDS=${SHARDS:-$HOME/shards/audioset}
RUN=${RUN:-$HOME/runs/ssast-base}

# Compiled programs are kept for the next start.
export JAX_COMPILATION_CACHE_DIR="${JAX_COMPILATION_CACHE_DIR:-$HOME/.cache/jax}"

# SIGTERM comes 300 s before the end: the run saves, ends with 143, and the job queues itself again.
code=0
srun --kill-on-bad-exit=1 jfreq train ssast_base --data "$SHARDS" --workdir "$RUN" \
  --mesh.data -1 --mesh.fsdp 8 --method.encoder.dtype bfloat16 || code=$?
if [ "$code" -eq 143 ]; then
  scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"
