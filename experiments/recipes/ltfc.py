"""LTFC (Rahimi Taghanaki, Rainbow, Etemad 2022): a series and its scalogram, each by contrast.

    jfreq train ltfc_hapt --data shards/hapt --workdir runs/ltfc --data.split train
    jfreq probe runs/ltfc --data shards/hapt
    jfreq finetune runs/ltfc --data shards/hapt --workdir runs/ltfc_tuned --method.head.fusion late

`ltfc_hapt` reads the accelerometer alone, windows of 8 s at 50 Hz (400 samples) as they are
prepared, and trains both branches side by side; they share nothing, so `ltfc_time_hapt` and
`ltfc_frequency_hapt` are its halves. `ltfc_seismic` takes any one sensor of any rate.
Only the abstract of the paper could be read: which parts are ours is said in docs/ltfc.md, and
neither its numbers nor its recipe are known. Recipe: Adam 1e-3, decay 1e-4, cosine, as in
comparable public work.
"""

from jfreq.augment import Views
from jfreq.config import Checkpoint, Experiment, Log, Optim, replace
from jfreq.methods.ltfc import LTFC

ltfc_hapt = Experiment(
    name="ltfc_hapt",
    method=LTFC(),
    optim=Optim(lr=1e-3, weight_decay=1e-4, b2=0.99, warmup=50),
    steps=400,
    batch=128,
    checkpoint=Checkpoint(every=100),
    log=Log(every=20),
)
ltfc_time_hapt = replace(ltfc_hapt, name="ltfc_time_hapt", method__branch="time")
ltfc_frequency_hapt = replace(ltfc_hapt, name="ltfc_frequency_hapt", method__branch="frequency")

# Geophones have no common gain and no gravity; a record's arrival must not be cut and reordered.
ltfc_seismic = replace(
    ltfc_hapt,
    name="ltfc_seismic",
    method__modalities=None,
    method__standardise="clip",
    method__views=Views(time=("jitter", "scale", "negate", "warp_time"), frequency=()),
    batch=64,
)
