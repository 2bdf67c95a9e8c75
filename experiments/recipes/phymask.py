"""Masked autoencoders that drop what they mask, and masks that follow physics (after PhyMask, Kara
et al., SenSys 2024).

    jfreq train mae_hapt --data shards/hapt --workdir runs/mae            # random masks
    jfreq train phymask_hapt --data shards/hapt --workdir runs/phymask    # energy and coherence
    jfreq train phymask_hapt --data shards/hapt --workdir runs/p96 --method.trunk.mask_ratio 0.96
    jfreq probe runs/phymask --data shards/hapt --folds test --kinds ridge knn

`*_nano` reads any sensors; `*_hapt` windows of 2.56 s at 50 Hz; `*_tiny` has an encoder of DeiT-tiny's
size. `phymask_swin_*` in freqmae.py puts the same masks on FreqMAE, which sees every place, so that a
high ratio saves nothing there. Only the paper's abstract is public: see docs/phymask.md for what is our reading.
"""

from jfreq.config import Checkpoint, Data, Experiment, Log, Optim, replace
from jfreq.frontends.sensor_stft import Spectrum
from jfreq.methods.mae import MAE
from jfreq.methods.phymask import PhyMask
from jfreq.nn.vit import SIZES, ViT

MOTION = Spectrum(interval=0.64, hop=0.32)
"""Seven half-overlapping intervals of 2.56 s, 16 bins of 1.56 Hz up to 25 Hz."""

NANO = MAE(
    encoder=ViT(width=64, depth=4, heads=4, unroll=True),
    decoder=ViT(width=32, depth=1, heads=2, unroll=True),
)
HAPT = replace(NANO, frontend=MOTION, patch_bins=(4,))
TINY = MAE(encoder=SIZES["tiny"], decoder=ViT(width=96, depth=2, heads=3))


def physical(trunk: MAE, anneal_steps: int) -> PhyMask:
    """Nine tenths masked, by energy and coherence."""
    return PhyMask(trunk=replace(trunk, mask_ratio=0.9), anneal_steps=anneal_steps)


mae_nano = Experiment(
    name="mae_nano",
    method=NANO,
    data=Data(split="train"),
    optim=Optim(lr=1e-3, warmup=40, weight_decay=0.05, b2=0.95),
    steps=400,
    batch=64,
    checkpoint=Checkpoint(every=100, keep=4),
    log=Log(every=20),
)
mae_hapt = replace(mae_nano, name="mae_hapt", method=HAPT)
mae_tiny = replace(
    mae_nano, name="mae_tiny", method=TINY, optim__lr=5e-4, steps=10_000, checkpoint__every=500
)
phymask_nano = replace(mae_nano, name="phymask_nano", method=physical(NANO, 200))
phymask_hapt = replace(mae_nano, name="phymask_hapt", method=physical(HAPT, 200))
phymask_tiny = replace(mae_tiny, name="phymask_tiny", method=physical(TINY, 5000))
