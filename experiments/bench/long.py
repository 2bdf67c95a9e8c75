"""Does memory depend on how long or how many recordings are, and how long is a cold start?

    jfreq bench long

Noise is embedded from one file of a minute, half an hour and five hours, from 50 and 500 files of
two seconds, from 50 and 500 arrays of a generator, and from streams of a minute and half an hour;
each is a process of its own, and its peak resident memory is what Linux says. The encoder is an untrained
`ssast_nano` with windows of one second, at 16 kHz. A cold start is a process that imports jfreq,
loads `ssast_tiny` and embeds ten seconds, with a compile cache that earlier starts filled. About
five minutes on two CPU cores.
"""

import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

RATE = 16_000
MINUTE, HALF_HOUR, FIVE_HOURS = 60, 30 * 60, 5 * 3600
STARTS = 7


def noise(seconds: int, seed: int = 0) -> Iterator[np.ndarray]:
    """Int16 noise, second by second."""
    rng = np.random.default_rng(seed)
    return (rng.normal(0, 3000, RATE).astype(np.int16) for _ in range(seconds))


def write(path: Path, seconds: int, seed: int = 0) -> None:
    import soundfile

    with soundfile.SoundFile(path, "w", RATE, 1, subtype="PCM_16") as file:
        for x in noise(seconds, seed):
            file.write(x)


def bundle(folder: Path, recipe: str, seconds: int) -> None:
    """An untrained encoder that reads windows of so many seconds."""
    import jax

    from jfreq import methods, recipes
    from jfreq.export.bundle import save_bundle
    from jfreq.types import DataSpec, SignalSpec

    signal = SignalSpec("audio", RATE, seconds * RATE)
    experiment = methods.bind(recipes.load(recipe), DataSpec((signal,)))
    params = jax.device_get(jax.jit(experiment.method.init)(jax.random.key(0)))
    save_bundle(folder, experiment=experiment, params=params)


# ------------------------------------------------------------------ what a process does


def files(folder: Path, _: int) -> int:
    """Embeds all files in a folder."""
    from jfreq.encoder.embed_files import embed_files
    from jfreq.encoder.encoder import load_encoder

    encoder = load_encoder(folder.parent / "nano")
    return embed_files(encoder, [folder], folder.parent / "out.npz").recordings


def arrays(folder: Path, count: int) -> int:
    """Clip vectors of so many arrays of two seconds."""
    from jfreq.encoder.encoder import load_encoder

    encoder = load_encoder(folder / "nano")
    waves = (np.concatenate(list(noise(2, seed))) for seed in range(count))
    return len(encoder.encode(waves))


def stream(folder: Path, seconds: int) -> int:
    """Pushes so many seconds, a tenth at a time."""
    from jfreq.encoder.encoder import load_encoder

    stream = load_encoder(folder / "nano").stream()
    count = sum(len(stream.push(part).frames) for x in noise(seconds) for part in np.split(x, 10))
    return count + len(stream.finish().frames)


def start(folder: Path, _: int) -> int:
    """A cold start."""
    import jfreq

    encoder = jfreq.load_encoder(folder / "tiny")
    return len(encoder(np.concatenate(list(noise(10)))).frames[0])


STAGES = {"files": files, "arrays": arrays, "stream": stream, "start": start}


def work(name: str, folder: str, value: str) -> None:
    began = time.perf_counter()
    count = STAGES[name](Path(folder), int(value))
    seconds = time.perf_counter() - began
    print(json.dumps({"count": count, "seconds": seconds, "peak_mb": peak_mb()}))


def peak_mb() -> float:
    """Peak resident memory. What `getrusage` says of a process begins with its parent's."""
    (line,) = (x for x in Path("/proc/self/status").read_text().splitlines() if "VmHWM" in x)
    return int(line.split()[1]) / 1024


# ------------------------------------------------------------------ the parent


def stage(name: str, folder: Path, value: int = 0, cache: Path | None = None) -> dict:
    """A stage in a process of its own: its result, seconds from outside, and CPU seconds."""
    env = dict(os.environ)
    if cache is not None:
        env |= {
            "JAX_COMPILATION_CACHE_DIR": str(cache),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        }
    command = [sys.executable, "-P", __file__, name, str(folder), str(value)]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    began = time.perf_counter()
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True, env=env)
    wall = time.perf_counter() - began
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {**json.loads(done.stdout.splitlines()[-1]), "wall_s": wall, "cpu_s": cpu}


def memory(folder: Path) -> dict[str, dict]:
    """Every kind of input, small and large, by what it is."""
    found = {}
    lengths = {"one minute": MINUTE, "half an hour": HALF_HOUR, "five hours": FIVE_HOURS}
    for what, seconds in lengths.items():
        home = folder / what
        home.mkdir()
        write(home / "a.wav", seconds)
        found[f"a file of {what}"] = stage("files", home)
        (home / "a.wav").unlink()
    for count in (50, 500):
        home = folder / f"{count}"
        home.mkdir()
        for i in range(count):
            write(home / f"{i}.wav", 2, i)
        found[f"{count} files of two seconds"] = stage("files", home)
        found[f"{count} arrays, `encode`"] = stage("arrays", folder, count)
    for what, seconds in list(lengths.items())[:2]:
        found[f"a stream of {what}"] = stage("stream", folder, seconds)
    return found


def main(out: Path | None = None) -> None:
    """Writes bench_long.md and .json.

    Args:
        out: folder of the results, by default experiments/results.
    """
    import common

    facts = common.begin(2)
    with tempfile.TemporaryDirectory() as tmp:
        folder = Path(tmp)
        bundle(folder / "nano", "ssast_nano", 1)
        bundle(folder / "tiny", "ssast_tiny", 10)
        first = stage("start", folder, cache=folder / "cache")
        starts = [stage("start", folder, cache=folder / "cache") for _ in range(STARTS)]
        found = memory(folder)
    lines = ["| embedded | seconds | peak |", "|---|---|---|"]
    lines += [f"| {n} | {f['seconds']:.1f} | {f['peak_mb']:.0f} MB |" for n, f in found.items()]
    wall = statistics.median(s["wall_s"] for s in starts)
    cpu = statistics.median(s["cpu_s"] for s in starts)
    cold = (
        f"A process that imports jfreq, loads `ssast_tiny` and embeds ten seconds: {wall:.2f} s "
        f"(median of {STARTS}; {cpu:.2f} s of processor time), with the compile cache of jax "
        f"(`JAX_COMPILATION_CACHE_DIR`) filled; {first['wall_s']:.2f} s where it is empty.\n"
    )
    print(cold, *lines, sep="\n", flush=True)
    intro = (
        "`ssast_nano`, windows of one second, noise at 16 kHz. Peak resident memory of one process "
        "for each row, all of it; the embeddings of files go to an `.npz` with frames."
    )
    table = "## Memory\n\n" + "\n".join(lines) + "\n"
    common.save("long", "Embedding much, and cold", intro, [f"## Cold start\n\n{cold}", table],
                facts=facts, more={"starts": starts, "first": first, "memory": found},
                out=out)  # fmt: skip


if __name__ == "__main__":
    if sys.argv[1:2] and sys.argv[1] in STAGES:
        work(*sys.argv[1:])
    else:
        import common

        common.run(main)
