"""data2vec 2.0 on waveforms (Baevski, Babu, Hsu and Auli 2022): masked clones, an average teacher.

    jfreq train data2vec_nano --data shards/fsdd --workdir runs/data2vec

`data2vec_base` has the sizes and the schedule of the released `base_audio_only_task`: 400 k updates
of 8 devices x 62.5 s of LibriSpeech; 32 windows of 15.6 s are as much. `data2vec_nano` is for
short clips and short runs: its teacher moves faster.
"""

from jfreq.config import Checkpoint, Experiment, Log, Optim, replace
from jfreq.methods.data2vec import Data2Vec
from jfreq.nn.bias import ALiBi
from jfreq.nn.predictors import ConvDecoder
from jfreq.nn.vit import SIZES
from jfreq.nn.waveform import ConvFeatures, ConvPositions

ADAM = Optim(b1=0.9, b2=0.98, eps=1e-6, weight_decay=0.01)

data2vec_nano = Experiment(
    name="data2vec_nano",
    method=Data2Vec(
        features=ConvFeatures(widths=(48,) * 7),
        positions=ConvPositions(depth=2, kernel=9),
        encoder=replace(SIZES["nano"], norm="post", eps=1e-5, bias=ALiBi()),
        decoder=ConvDecoder(width=48, depth=2, kernel=7),
        clones=4, target_layers=None, ema=(0.998, 0.9999), ema_steps=500,
    ),
    optim=replace(ADAM, lr=5e-4, warmup=50),
    steps=500,
    batch=16,
    checkpoint=Checkpoint(every=100),
    log=Log(every=10),
)  # fmt: skip

data2vec_base = Experiment(
    name="data2vec_base",
    method=Data2Vec(),
    optim=replace(ADAM, lr=7.5e-4, warmup=8000),
    steps=400_000,
    batch=32,
    checkpoint=Checkpoint(every=5000),
    log=Log(every=100),
)
