"""FreqMAE (Kara et al., WWW 2024): masked autoencoding of several sensors at once.

    jfreq data prepare hapt --source ../shared/data/hapt --out shards/hapt \\
        --seconds 2.56 --hop-seconds 1.28 --unlabelled
    jfreq train freqmae_hapt --data shards/hapt --workdir runs/freqmae
    jfreq probe runs/freqmae --data shards/hapt --folds test --kinds ridge knn

`freqmae_mod` is the published network and recipe with what it was meant to do; `freqmae_mod_released`
is what was run, flaws included: windows one frame high, no wrap mask, raw two-sided magnitude and
phase, padding that counts, a decoder that strings children together, and weight decay of every
parameter that is trained, as torch's AdamW has it. Both read windows of 2 s of a microphone (8 kHz) and a geophone (100 Hz).
`*_nano` reads any sensors and takes about a third of a second an update on two cores; `*_hapt` fits
windows of 2.56 s at 50 Hz. Patch embeddings keep their random initial values (`optim.lr_mult` 0), as published.
"""

from jfreq.config import Checkpoint, Data, Experiment, Log, Optim, replace
from jfreq.frontends.sensor_stft import Spectrum
from jfreq.methods.freqmae import FreqMAE, as_released
from jfreq.methods.phymask import PhyMask
from jfreq.nn.swin import Swin

FROZEN = ((r".*/patch_embed/.*", 0.0),)
"""Their weights do not decay either, as in torch, where they have no gradient."""
SWIN = Swin(
    width=32, depths=(2, 2), window=(2, 4), dropout=0.1, attention_dropout=0.0, drop_path=0.1
)
MOTION = Spectrum(interval=0.64, hop=0.32)
"""Seven half-overlapping intervals of 2.56 s, 16 bins of 1.56 Hz up to 25 Hz."""

NANO = FreqMAE(encoder=SWIN, embedding=64, fusion=128)
HAPT = replace(NANO, frontend=MOTION, patch_bins=(2,))
MOD = FreqMAE(
    frontend=Spectrum(interval=0.2, remove_mean=True),
    encoder=Swin(depths=(2, 2, 4), window=(2, 9)),
    patch_bins=(40, 1),
)


def released(experiment: Experiment, name: str) -> Experiment:
    """The network as released; norms, biases, position biases and mask tokens decay too."""
    assert isinstance(experiment.method, FreqMAE)
    method = as_released(experiment.method)
    return replace(experiment, name=name, method=method, optim__decay=(".*",))


freqmae_nano = Experiment(
    name="freqmae_nano",
    method=NANO,
    data=Data(split="train"),
    optim=Optim(lr=1e-3, warmup=40, weight_decay=0.05, lr_mult=FROZEN),
    steps=400,
    batch=64,
    checkpoint=Checkpoint(every=100, keep=4),
    log=Log(every=20),
)
freqmae_hapt = replace(freqmae_nano, name="freqmae_hapt", method=HAPT)
freqmae_released_nano = released(freqmae_nano, "freqmae_released_nano")
freqmae_released_hapt = released(freqmae_hapt, "freqmae_released_hapt")
# Masks by energy and coherence, see phymask.py; here every masked place is still computed.
phymask_swin_nano = replace(
    freqmae_nano, name="phymask_swin_nano", method=PhyMask(trunk=NANO, anneal_steps=200)
)
phymask_swin_hapt = replace(
    freqmae_nano, name="phymask_swin_hapt", method=PhyMask(trunk=HAPT, anneal_steps=200)
)

# Published: AdamW, cosine, 2500 epochs of some 10,000 windows, batches of 256.
freqmae_mod = Experiment(
    name="freqmae_mod",
    method=MOD,
    data=Data(split="train"),
    optim=Optim(lr=1e-4, final_lr=1e-3, weight_decay=0.05, lr_mult=FROZEN),
    steps=100_000,
    batch=256,
    checkpoint=Checkpoint(every=2000),
    log=Log(every=50),
)
freqmae_mod_released = released(freqmae_mod, "freqmae_mod_released")
