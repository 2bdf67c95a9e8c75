"""AaSP: aliasing-aware patches before a masked teacher and student (Yamamoto and Okusa 2025).

    jfreq train aape_tiny --data shards/esc10 --workdir runs/aape_tiny
    jfreq train aape_tiny --data shards/esc10 --workdir runs/hermitian --method.aape.phase hermitian
    jfreq train ssast_tiny --method.embed aape --data shards/esc10 --workdir runs/ssast_aape

None of the paper's settings are public; those of `aape_base` are EAT's where EAT has them and ours
elsewhere (docs/aape.md lists each, with what else to try). Of the published results one is known: 89.7 %
on UrbanSound8K. `aape_nano` is small enough for two CPU cores.
"""

from jfreq.config import Checkpoint, Experiment, Log, Optim, replace
from jfreq.frontends.fbank import Fbank
from jfreq.methods.aasp import AaSP
from jfreq.nn.aape import AaPE
from jfreq.nn.predictors import CrossPredictor
from jfreq.nn.vit import SIZES

ADAM = Optim(b1=0.9, b2=0.95, weight_decay=0.05, clip=4.0)

aape_nano = Experiment(
    name="aape_nano",
    method=AaSP(
        frontend=Fbank(), encoder=replace(SIZES["nano"], norm="post", unroll=True), clones=8,
        aape=AaPE(width=48, heads=3, out=48), decoder=CrossPredictor(width=96, depth=2, heads=3),
        projection=(96, 64), ema=(0.99, 0.999), ema_steps=500,
    ),
    optim=replace(ADAM, lr=1e-3, warmup=50),
    steps=500,
    batch=16,
    checkpoint=Checkpoint(every=100),
    log=Log(every=10),
)  # fmt: skip


def _sized(size: str, *, lr: float, batch: int, aape: AaPE, decoder: CrossPredictor) -> Experiment:
    return Experiment(
        name=f"aape_{size}",
        method=AaSP(
            frontend=Fbank(), encoder=replace(SIZES[size], norm="post"), aape=aape,
            decoder=decoder, ema=(0.999, 0.9999), ema_steps=50_000,
        ),
        optim=replace(ADAM, lr=lr, warmup=5000),
        steps=100_000,
        batch=batch,
        checkpoint=Checkpoint(every=2000),
        log=Log(every=50),
    )  # fmt: skip


aape_tiny = _sized(
    "tiny", lr=1e-3, batch=32, aape=AaPE(width=96, out=96),
    decoder=CrossPredictor(width=192, depth=2, heads=3),
)  # fmt: skip
aape_small = _sized(
    "small", lr=7e-4, batch=32, aape=AaPE(), decoder=CrossPredictor(width=384, depth=4, heads=6)
)
# AudioSet-2M as EAT-base reads it; every number of the alias branch is our choice.
aape_base = replace(
    _sized("base", lr=5e-4, batch=48, aape=AaPE(), decoder=CrossPredictor()),
    method__ema=(0.9998, 0.99999), method__ema_steps=100_000, optim__warmup=53_333, steps=400_000,
)  # fmt: skip
