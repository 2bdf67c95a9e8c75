#!/bin/bash
# One training on a Cloud TPU slice by queued resources, from your own machine:
#   PROJECT=... ZONE=us-west4-a ./train_tpu.sh
# The slice is asked for, set up and started; the same script again goes on where it was.
set -euo pipefail

: "${PROJECT:?name the project}" "${ZONE:?name the zone}"
NAME=${NAME:-jfreq}
SLICE=${SLICE:-v5litepod-16}
VERSION=${VERSION:-v2-alpha-tpuv5-lite}
SOURCE=${SOURCE:?give what pip installs on the hosts, a wheel in a bucket or a git address}
# A disk that all hosts mount, for instance Filestore.
FOLDER=${FOLDER:-/mnt/jfreq}

where=(--project "$PROJECT" --zone "$ZONE")
on_all_hosts() { gcloud compute tpus tpu-vm ssh "$NAME" "${where[@]}" --worker=all --command "$1"; }

if ! gcloud compute tpus queued-resources describe "$NAME" "${where[@]}" >/dev/null 2>&1; then
  gcloud compute tpus queued-resources create "$NAME" --node-id "$NAME" "${where[@]}" \
    --accelerator-type "$SLICE" --runtime-version "$VERSION"
fi
until gcloud compute tpus queued-resources describe "$NAME" "${where[@]}" \
  --format 'value(state.state)' | grep -q ACTIVE; do
  sleep 60
done

on_all_hosts "pip install -q '$SOURCE' 'jax[tpu]'"
# Every host runs the same command; they find each other by the metadata of the slice.
on_all_hosts "JAX_COMPILATION_CACHE_DIR=$FOLDER/cache/jax nohup jfreq train ssast_base \
  --data $FOLDER/shards/audioset --workdir $FOLDER/runs/ssast-base \
  --mesh.data -1 --mesh.fsdp 4 --method.encoder.dtype bfloat16 >>jfreq.log 2>&1 </dev/null &"
gcloud compute tpus tpu-vm ssh "$NAME" "${where[@]}" --worker=0 --command 'tail -f jfreq.log'
