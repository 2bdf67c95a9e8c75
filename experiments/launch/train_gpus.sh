#!/bin/bash
# One training on all GPUs of one machine: SHARDS=... RUN=... ./train_gpus.sh
# One process drives all of them. Where it is stopped or dies, it starts again from its last checkpoint,
# up to TRIES times; bad input (exit code 2) and a loss that is no number (1) end it.
set -uo pipefail

SHARDS=${SHARDS:-shards/audioset}
RUN=${RUN:-runs/ssast-base}
TRIES=${TRIES:-10}
export JAX_COMPILATION_CACHE_DIR="${JAX_COMPILATION_CACHE_DIR:-$HOME/.cache/jax}"

for ((try = 1; try <= TRIES; try++)); do
  jfreq train ssast_base --data "$SHARDS" --workdir "$RUN" \
    --mesh.data -1 --method.encoder.dtype bfloat16 --method.encoder.attention cudnn "$@"
  code=$?
  case $code in
    0 | 1 | 2 | 130 | 143) exit "$code" ;;
  esac
  echo "ended with $code, start $((try + 1))" >&2
  sleep 10
done
exit "$code"
