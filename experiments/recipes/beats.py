"""BEATs (Chen et al., ICML 2023): codes of masked patches, and the tokenizers they come from.

An iteration is a model, and a tokenizer distilled from it for the next model:

    jfreq train beats_nano --data shards/esc10 --workdir runs/beats1
    jfreq train beats_tokenizer_nano --data shards/esc10 --workdir runs/tokenizer1 \\
        --checkpoint.init-from runs/beats1,write=teacher,into=target
    jfreq train beats_iter2_nano --data shards/esc10 --workdir runs/beats2 \\
        --checkpoint.init-from runs/tokenizer1,write=tokenizer,into=target \\
        runs/tokenizer1,read=codebook,write=tokenizer/codebook,what=target,into=target
"""

from typing import Any

from jfreq.config import Checkpoint, Experiment, Log, Optim, replace
from jfreq.methods.beats import BEATs, BEATsTokenizer, RandomProjection, TrainedTokenizer
from jfreq.methods.common.beats_parts import FBANK
from jfreq.nn.position_conv import PositionConv
from jfreq.nn.vit import SIZES, ViT

ADAM = Optim(b1=0.9, b2=0.98, weight_decay=0.01, clip=1.0)
CODES: Any = {"codes": 256, "code_width": 64}
"""Of the small models; the published codebook has 1024 codes of 256 numbers."""


def post(size: str, **changes) -> ViT:
    return replace(SIZES[size], norm="post", **changes)


NANO = post("nano", unroll=True, position_conv=PositionConv(kernel=32, groups=4))

beats_nano = Experiment(
    name="beats_nano",
    method=BEATs(
        frontend=FBANK, patch_width=64, encoder=NANO, predictor=replace(NANO, depth=2),
        tokenizer=RandomProjection(**CODES),
    ),
    optim=replace(ADAM, lr=1e-3, warmup=50),
    steps=500,
    batch=16,
    checkpoint=Checkpoint(every=100),
    log=Log(every=10),
)  # fmt: skip

beats_tokenizer_nano = replace(
    beats_nano,
    name="beats_tokenizer_nano",
    method=BEATsTokenizer(
        frontend=FBANK, patch_width=64, encoder=NANO, teacher=NANO,
        estimator=replace(NANO, depth=2), decay=0.95, restart_below=0.1, **CODES,
    ),
)  # fmt: skip

beats_iter2_nano = replace(
    beats_nano,
    name="beats_iter2_nano",
    method__tokenizer=TrainedTokenizer(encoder=NANO, **CODES),
)


def _published(name: str, method: BEATs | BEATsTokenizer, *, lr: float, batch: int) -> Experiment:
    return Experiment(
        name=name,
        method=replace(method, frontend=FBANK, frames=998),
        optim=replace(ADAM, lr=lr, warmup=32_000),
        steps=400_000,
        batch=batch,
        checkpoint=Checkpoint(every=5000),
        log=Log(every=100),
    )


beats_base = _published("beats_base", BEATs(), lr=5e-4, batch=560)
beats_tokenizer_base = _published("beats_tokenizer_base", BEATsTokenizer(), lr=5e-5, batch=140)
beats_iter2_base = replace(
    beats_base, name="beats_iter2_base", method__tokenizer=TrainedTokenizer()
)
