"""The main job from end to end, on the embedded synthetic machines: signal in, encoder out.

    make demo

Makes labelled recordings of rotating machines from physics, turns them into shards, pre-trains
SSAST without labels, probes the frozen encoder beside its untrained self and hand-crafted
statistics, exports it, embeds a recording of another length and rate, and writes a page about the
run. Three to four minutes on two CPU cores. It ends with a verdict in three lines.

Every line that starts with `$` can be typed as it stands. The probe pools mean and std over
time (`--pool mean_std`), as the statistics that it is compared with do. It was chosen after other
pools had been tried on this data, so its interval is a little too good.
"""

import shlex
import subprocess
import sys
import time
from pathlib import Path

HOME = Path("runs/demo")


def say(line: str) -> None:
    print(f"\n$ {line}", flush=True)


def run(line: str) -> None:
    """Runs one `jfreq` command line as a process of its own, as a user would."""
    say(line)
    command, *rest = shlex.split(line)
    assert command == "jfreq"
    done = subprocess.run([sys.executable, "-m", "jfreq", *rest])
    if done.returncode:
        raise SystemExit(done.returncode)


def recording(path: Path) -> None:
    """23 s of a machine at 44.1 kHz: a sound the encoder was not trained on, in another format."""
    import numpy as np
    import soundfile
    import soxr

    from jfreq.data.sources import synthetic

    wave, rate = synthetic.make("machines", n=1, seconds=23.0, seed=7)[0].signals["audio"]
    soundfile.write(path, soxr.resample(np.asarray(wave[:, 0], np.float32), rate, 44100), 44100)


def main() -> None:
    began = time.perf_counter()
    HOME.mkdir(parents=True, exist_ok=True)
    if not (HOME / "shards" / "metadata.json").exists():
        run(f"jfreq data prepare synthetic:machines --out {HOME}/shards --n 320 --seconds 2")
    run(f"jfreq train ssast_nano --data {HOME}/shards --workdir {HOME}/run --steps 200")
    run(f"jfreq probe {HOME}/run --data {HOME}/shards --kinds logistic --pool mean_std")
    run(f"jfreq export {HOME}/run --out {HOME}/encoder")
    recording(HOME / "machine.wav")
    run(f"jfreq embed {HOME}/encoder {HOME}/machine.wav --out {HOME}/embedding.npz")
    run(f"jfreq report {HOME}/run --rows 0")
    print(f"\nDone in {time.perf_counter() - began:.0f} s. The frozen encoder in Python:\n")
    print(f'    import jfreq; encoder = jfreq.load_encoder("{HOME}/encoder")\n')
    conclude(HOME / "run")


def conclude(folder: Path) -> None:
    """The verdict: what was learned, compared with what, and where the page about it is."""
    from jfreq.evaluate.results import Report
    from jfreq.evaluate.verdict import verdict

    for line in verdict(Report.read(folder / "results.json")):
        print(line)
    print(f"The page about this run: {folder}/report.html; larger runs: experiments/results/.")


if __name__ == "__main__":
    main()
