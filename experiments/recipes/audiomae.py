"""Audio-MAE (Huang et al., NeurIPS 2022): a masked autoencoder on log-mel patches.

    jfreq train audiomae_tiny --data shards/esc10 --workdir runs/audiomae_tiny

`audiomae_audioset_base` is the released recipe for 10 s clips of AudioSet-2M, about 36 hours of 64
V100. Published (base, fine-tuned): AudioSet-2M 47.3, AudioSet-20K 37.0 mAP, ESC-50 94.1, Speech
Commands V2 98.3 %; after 8, 16, 24, 32, 40 epochs AudioSet-2M 46.5, 46.8, 47.2, 47.3, 47.3.

Every number of it stands in docs/released.md, beside what differs from the released code. The rate is
2e-4 x batch / 256, an epoch 3806 updates (1.95 M clips), 33 of them (the paper: 32).

`audiomae_nano|tiny|small|base` take the length of any prepared audio set. Their positions are the
sines of their own grid, the decoders of nano, tiny and small are narrower and shorter, and their rates
are ours: they have smaller batches.
"""

from jfreq.config import Checkpoint, Experiment, Log, Optim, replace
from jfreq.frontends.fbank import Fbank
from jfreq.methods.audiomae import AudioMAE
from jfreq.nn.vit import SIZES
from jfreq.nn.window_decoder import WindowDecoder

DECAY = (r".*/kernel", r".*/special_tokens", r".*/mask_token")
"""Every tensor of two axes or more, as released: the tokens have three there."""
FIXED = ((r".*/positions/.*", 0.0),)
ADAM = Optim(b1=0.9, b2=0.95, weight_decay=1e-4, decay=DECAY)

audiomae_nano = Experiment(
    name="audiomae_nano",
    method=AudioMAE(
        frontend=Fbank(), encoder=replace(SIZES["nano"], unroll=True), gain=True,
        decoder=WindowDecoder(width=96, depth=2, heads=6, bias_width=64),
    ),
    optim=replace(ADAM, lr=1e-3, warmup=50),
    steps=500,
    batch=16,
    checkpoint=Checkpoint(every=100),
    log=Log(every=10),
)  # fmt: skip


def _sized(size: str, decoder: WindowDecoder, *, lr: float) -> Experiment:
    return Experiment(
        name=f"audiomae_{size}",
        method=AudioMAE(frontend=Fbank(), encoder=SIZES[size], decoder=decoder, gain=True),
        optim=replace(ADAM, lr=lr, warmup=5000),
        steps=100_000,
        batch=64,
        checkpoint=Checkpoint(every=2000),
        log=Log(every=50),
    )


audiomae_tiny = _sized("tiny", WindowDecoder(width=192, depth=4, heads=6), lr=5e-4)
audiomae_small = _sized("small", WindowDecoder(width=384, depth=8, heads=12), lr=4e-4)
audiomae_base = _sized("base", WindowDecoder(), lr=2e-4)

audiomae_audioset_base = replace(
    audiomae_base,
    name="audiomae_audioset_base",
    method__frames=1024,
    method__padding="attended",
    method__positions="learned",
    optim__lr=4e-4,
    optim__lr_mult=FIXED,
    optim__warmup=3 * 3806,
    steps=33 * 3806,
    batch=512,
    checkpoint__every=3806,
    log__every=100,
)
