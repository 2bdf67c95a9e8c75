"""STFNets (Yao et al., WWW 2019) and STF-CSL (Liu et al., ICCCN 2021) on sensors.

    jfreq data prepare hapt --source ../shared/data/hapt --out shards/hapt \\
        --seconds 2.56 --hop-seconds 1.28 --unlabelled
    jfreq train stfnet_hapt --data shards/hapt --workdir runs/stfnet      # supervised
    jfreq train stf_csl_hapt --data shards/hapt --workdir runs/stf_csl    # without labels
    jfreq probe runs/stf_csl --data shards/hapt --folds test

`stfnet_hhar` and `stfnet_wifi` are the released networks to the number (212,910 and 55,910
parameters, interleaving that starts at zero and stays there) for 512 samples of two sensors at
about 100 Hz; the paper's own figures are not public text and are not quoted. `*_hapt` fit windows of
2.56 s at 50 Hz: blocks of 16 to 64 samples, interleaving that learns. `cnn_*` and `deepsense_*` are
baselines in the same harness with the same budget.
"""

from jfreq.config import Checkpoint, Data, Experiment, Log, Optim, replace
from jfreq.methods.stf_csl import STFCSL
from jfreq.methods.stfnet import STFNet
from jfreq.nn.cnn1d import Conv1d
from jfreq.nn.deepsense import DeepSense
from jfreq.nn.stf import STF

# Released: Adam at a constant rate, L2 over every trainable number.
RELEASED = Optim(
    lr=1e-4, schedule="constant", kind="adam_l2", weight_decay=5e-4, decay=(".*",), b1=0.5, b2=0.9
)
SHORT = STF(windows=(16, 32, 64), pooled=None, width=48, sensor_width=24, taps=16)
"""For 128 samples: blocks of 0.32 to 1.28 s at 50 Hz."""

stfnet_hhar = Experiment(
    name="stfnet_hhar",
    method=STFNet(
        encoder=STF(merge="zero", dead_bias=True, eps_in_covariance=True), standardise="none"
    ),
    optim=RELEASED,
    steps=20_000,
    batch=64,
    checkpoint=Checkpoint(every=1000),
    log=Log(every=50),
)
stfnet_wifi = replace(
    stfnet_hhar,
    name="stfnet_wifi",
    method__encoder=STF(
        merge="zero", operator="convolution", activation="frequency", eps_in_covariance=True
    ),
    optim__b1=0.9,
    optim__b2=0.99,
)

stfnet_hapt = Experiment(
    name="stfnet_hapt",
    method=STFNet(encoder=SHORT),
    data=Data(split="train"),
    optim=Optim(lr=1e-3, warmup=100, weight_decay=0.01, decay=(".*/kernel", ".*/base")),
    steps=1500,
    batch=64,
    checkpoint=Checkpoint(every=500),
    log=Log(every=50),
)
stfnet_conv_hapt = replace(
    stfnet_hapt,
    name="stfnet_conv_hapt",
    method__encoder=replace(SHORT, operator="convolution", activation="frequency"),
)
KERNELS = (".*/kernel",)
cnn_hapt = replace(stfnet_hapt, name="cnn_hapt", method__encoder=Conv1d(), optim__decay=KERNELS)
deepsense_hapt = replace(
    stfnet_hapt, name="deepsense_hapt", method__encoder=DeepSense(), optim__decay=KERNELS
)

stf_csl_hapt = Experiment(
    name="stf_csl_hapt",
    method=STFCSL(encoder=SHORT),
    data=Data(split="train"),
    optim=Optim(lr=1e-3, warmup=100, weight_decay=1e-4, b2=0.99, decay=(".*/kernel", ".*/base")),
    steps=1000,
    batch=256,
    checkpoint=Checkpoint(every=500),
    log=Log(every=50),
)
cnn_csl_hapt = replace(
    stf_csl_hapt, name="cnn_csl_hapt", method__encoder=Conv1d(), optim__decay=KERNELS
)
