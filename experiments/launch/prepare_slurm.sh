#!/bin/bash
# A set of shards prepared by 64 tasks of a SLURM array, and joined: bash prepare_slurm.sh
# A node that fails puts its part back into the queue; the shards that were finished stay.
set -euo pipefail

# Folders that all nodes see, and the words of the command, the same for all parts.
SOURCE=${SOURCE:-$HOME/data/audioset}
OUT=${OUT:-$HOME/shards/audioset}
WORDS=${WORDS:-audioset --source $SOURCE --out $OUT --encoding flac}
PARTS=${PARTS:-64}

array=$(sbatch --parsable --array="1-$PARTS" --cpus-per-task=4 --mem=8G --time=12:00:00 --requeue \
  --job-name=prepare --output=prepare-%A-%a.log \
  --wrap "jfreq data prepare $WORDS --workers 4 --part \$SLURM_ARRAY_TASK_ID/$PARTS")
sbatch --dependency="afterok:$array" --cpus-per-task=4 --mem=8G --time=4:00:00 \
  --job-name=finish --output=finish-%j.log \
  --wrap "jfreq data prepare $WORDS --workers 4 --finish"
