"""EAT (Chen, Liang, Ma, Zheng, Chen, IJCAI 2024): masked clones and an average teacher.

    jfreq train eat_tiny --data shards/esc10 --workdir runs/eat_tiny

`eat_audioset_base` and `eat_audioset_large` are the released recipes for 10 s clips of AudioSet-2M:
400 k updates of 48 clips x 16 clones (10 epochs), 230 hours of RTX 3090. Published (base, 10 epochs,
fine-tuned): AudioSet-2M 48.6, AudioSet-20K 40.3 mAP, ESC-50 96.0, Speech Commands V2 98.3 %; on
AudioSet-20K after epoch 1, 2, 3: 34.2, 37.1, 37.6. `eat_nano|tiny|small|base` take the length of any
prepared audio set; their teachers move faster, as short runs need, and they weigh the clip's term
by 10. docs/released.md has every number beside the released ones.
"""

from jfreq.config import Checkpoint, Experiment, Log, Optim, replace
from jfreq.frontends.fbank import Fbank
from jfreq.methods.eat import EAT
from jfreq.nn.predictors import ConvDecoder
from jfreq.nn.vit import SIZES, ViT

ADAM = Optim(b1=0.9, b2=0.95, weight_decay=0.05, clip=4.0)
AUDIOSET = Fbank(mean=-4.268, std=4.569)
"""Rounded, as released."""


def post(size: str, **changes) -> ViT:
    return replace(SIZES[size], norm="post", **changes)


eat_nano = Experiment(
    name="eat_nano",
    method=EAT(
        frontend=Fbank(), encoder=post("nano", unroll=True), clones=8,
        decoder=ConvDecoder(width=96, depth=2), utterance_weight=10.0, ema=(0.99, 0.999),
        ema_steps=500,
    ),
    optim=replace(ADAM, lr=1e-3, warmup=50),
    steps=500,
    batch=16,
    checkpoint=Checkpoint(every=100),
    log=Log(every=10),
)  # fmt: skip


def _sized(size: str, *, lr: float, batch: int, depth: int) -> Experiment:
    encoder = post(size)
    return Experiment(
        name=f"eat_{size}",
        method=EAT(
            frontend=Fbank(), encoder=encoder, decoder=ConvDecoder(width=encoder.width, depth=depth),
            utterance_weight=10.0, ema=(0.999, 0.9999), ema_steps=50_000,
        ),
        optim=replace(ADAM, lr=lr, warmup=5000),
        steps=100_000,
        batch=batch,
        checkpoint=Checkpoint(every=2000),
        log=Log(every=50),
    )  # fmt: skip


eat_tiny = _sized("tiny", lr=1e-3, batch=32, depth=4)
eat_small = _sized("small", lr=7e-4, batch=32, depth=6)
eat_base = _sized("base", lr=5e-4, batch=48, depth=6)


def _released(name: str, method: EAT, lr: float) -> Experiment:
    return Experiment(
        name=name,
        method=replace(method, padding="attended", initial="released"),
        # Every tensor of two axes or more decays, the special token (1 x 1 x width) too.
        optim=replace(ADAM, lr=lr, warmup=53_333, decay=(r".*/kernel", r".*/special_tokens")),
        steps=400_000,
        batch=48,
        checkpoint=Checkpoint(every=5000),
        log=Log(every=100),
    )


eat_audioset_base = _released(
    "eat_audioset_base", EAT(frontend=AUDIOSET, frames=1024, pool="special"), lr=5e-4
)
eat_audioset_large = _released(
    "eat_audioset_large",
    EAT(
        frontend=AUDIOSET, frames=1024, pool="special", mask_ratio=0.75, adjust=0.1,
        encoder=ViT(width=1024, depth=24, heads=16, norm="post"),
        decoder=ConvDecoder(width=1024, depth=3, kernel=5), ema_steps=150_000,
    ),
    lr=4e-4,
)  # fmt: skip
