"""Bytes and arithmetic of the base networks on TPU, before and after what keeps bytes off memory.

    python experiments/studies/tpu_bytes.py                # all that is not there yet
    python experiments/studies/tpu_bytes.py --only ssast   # those whose name holds it

Needs libtpu (`pip install 'jfreq[tpu-plan]'`), no TPU; one to ten minutes for each compilation on two
CPU cores. What is compiled is kept in `experiments/results/tpu_bytes.json`, row by row, with the
options that it was compiled with; rows of other options are compiled anew.
`experiments/results/tpu_bytes.md` is written from it.

Rows *before* are of the networks and kernels of an older commit, taken from git and analysed by
today's `jfreq plan`.
"""

import argparse
import io
import json
import os
import shlex
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "experiments" / "results"
FILE = RESULTS / "tpu_bytes.json"
TOPOLOGIES = ("v5e:2x4", "v5p:2x2x2")
MESH = "--mesh.data 8 --mesh.fsdp 1 --mesh.tensor 1"
ENCODER = "--method.encoder.dtype bfloat16 --method.encoder.attention splash"
DECODER = "--method.decoder.dtype bfloat16"
LEAN = (
    "--method.encoder.dtype bfloat16 --method.encoder.stream bfloat16 "
    "--method.encoder.attention whole --method.encoder.remat dots"
)
LEAN_DECODER = f"{DECODER} --method.decoder.stream bfloat16 --method.decoder.remat dots"
NETWORKS: dict[str, dict[str, str]] = {
    "ssast_base": {"before": f"--batch 128 {ENCODER}", "after": f"--batch 128 {LEAN}"},
    "audiomae_base": {
        "before": f"--batch 256 {ENCODER} {DECODER} --method.decoder.remat dots",
        "after": f"--batch 256 {LEAN} {LEAN_DECODER} --method.decoder.attention whole",
    },
    "eat_base": {
        "before": f"--batch 64 {ENCODER} --method.encoder.remat dots {DECODER}",
        "after": f"--batch 64 {LEAN} {LEAN_DECODER}",
    },
}
"""Options by network; the batch is the same before and after."""
BEFORE = "bb0f252"
"""The commit whose networks and kernels the rows *before* compile."""
READING = (
    "jfreq/plan", "jfreq/monitoring", "jfreq/sharding.py", "jfreq/cli/plan.py",
    "jfreq/cli/config_views.py",
)  # fmt: skip
"""What compiles and reads a program, of today in either row."""
SHOWN = 16
"""Parts of a network that the page shows."""


def model_flops(name: str, batch: int) -> int:
    """FLOPs of an update by the model's own arithmetic: nothing recomputed, nothing padded."""
    import jax

    from jfreq import methods, recipes, sharding
    from jfreq.cli import config_views
    from jfreq.config import replace
    from jfreq.data.loading.pipeline import batch_spec
    from jfreq.monitoring import throughput
    from jfreq.train import plan

    experiment = replace(recipes.load(name), batch=batch)
    data = config_views.shards_info(config_views.PlanView(experiment))
    experiment = methods.bind(experiment, data.spec)
    mesh = sharding.make_mesh((1, 1, 1), jax.devices("cpu")[:1])
    with jax.set_mesh(mesh):
        spec = plan.plan_step(experiment, batch_spec(data, batch), mesh)
        return throughput.step_flops(spec)


def compiled(name: str, options: str, when: str) -> dict[str, Any]:
    """What ``jfreq plan`` says."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "plan.json"
        words = [name, *shlex.split(options)]
        print(shlex.join(["jfreq", "plan", *words]), when, file=sys.stderr, flush=True)
        tree = ROOT if when == "after" else tree_before(Path(folder) / "tree")
        call = "import sys; from jfreq.cli.plan import plan; plan(sys.argv[1:])"
        command = [sys.executable, "-P", "-c", call, *words, "--json", str(out)]
        environment = os.environ | {"PYTHONPATH": str(tree)}
        done = subprocess.run(command, capture_output=True, text=True, env=environment)
        if done.returncode:
            return {"error": done.stderr.strip().splitlines()[-1]}
        return json.loads(out.read_text())


def tree_before(folder: Path) -> Path:
    """The code of :data:`BEFORE` with today's `jfreq plan`."""
    command = ["git", "archive", BEFORE, "jfreq", "experiments", "pyproject.toml"]
    archive = subprocess.run(command, cwd=ROOT, capture_output=True, check=True).stdout
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        tar.extractall(folder, filter="data")
    for name in READING:
        if (ROOT / name).is_dir():
            shutil.rmtree(folder / name)
            shutil.copytree(ROOT / name, folder / name)
        else:
            shutil.copy(ROOT / name, folder / name)
    return folder


def row(name: str, topology: str, when: str, options: str) -> dict[str, Any]:
    """One line of the table and the parts that move the most."""
    found = compiled(name, options, when)
    head = {"network": name, "topology": topology, "when": when, "options": options}
    if "error" in found:
        return head | found
    from jfreq.monitoring import provenance

    times = found["roofline"]
    model = model_flops(name, found["batch"]) / found["devices"] / _peak(topology)
    moved = [{**m, "bytes": m["read"] + m["written"]} for m in found["moved"]]
    return head | {
        "batch": found["batch"],
        "compute": times["compute"],
        "memory": times["memory"],
        "communication": times["communication"],
        "bound": times["bound"],
        "model": model,
        "mfu": model / times["best"],
        "peak_memory": found["memory"]["peak"],
        "traffic": found["traffic"],
        "compile_s": found["compile_s"],
        "commit": provenance.commit(),
        "moved": moved[:SHOWN],
    }


def _peak(topology: str) -> float:
    from jfreq.plan.topology import parse

    peak = parse(topology).hardware.peak
    assert peak
    return peak


# ------------------------------------------------------------------ the page

HEAD = """# Bytes and arithmetic of the base networks on TPU

What the TPU compiler says of a training step, front end inside, before and after what keeps bytes off main memory
([docs/speed.md](../../docs/speed.md)). *Before* is the code of commit `bb0f252` with the best options it had, at the same
batch size, analysed by today's `jfreq plan`. `python experiments/studies/tpu_bytes.py` writes this page, a row for each
compilation; how to read it: [docs/plan.md](../../docs/plan.md#where-the-bytes-go).

Times are bounds of one step from data sheets: no TPU was used and no speed was measured. *Products* are those of the
traced step, recomputed ones included; *memory* is the traffic of the compiled program at full bandwidth. The *MFU
bound* is the model's own arithmetic (nothing recomputed, nothing padded) at the bfloat16 peak over the longest of the
three times.
"""


def page(rows: list[dict[str, Any]], missing: list[str]) -> str:
    head = ["network", "on", "batch", "", "products", "memory", "collectives", "bound by", "memory / products", "MFU bound", "most in use"]  # fmt: skip
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    lines += ["| " + " | ".join(_cells(r)) + " |" for r in rows]
    absent = f"Not compiled yet: {', '.join(missing)}.\n" if missing else ""
    parts = [HEAD, "\n".join(lines), "", absent, *map(_details, rows)]
    return "\n".join(parts)


def _cells(r: dict[str, Any]) -> list[str]:
    first = [f"`{r['network']}`", r["topology"]]
    if "error" in r:
        return [*first, "", r["when"], r["error"], *[""] * 6]
    times = (f"{1e3 * r[k]:.1f} ms" for k in ("compute", "memory", "communication"))
    ratio, use = f"{r['memory'] / r['compute']:.2f}", f"{r['peak_memory'] / 2**30:.1f} GiB"
    return [*first, str(r["batch"]), r["when"], *times, r["bound"], ratio, f"{r['mfu']:.0%}", use]


def _details(r: dict[str, Any]) -> str:
    title = f"## {r['network']} on {r['topology']}, {r['when']}"
    command = f"```\njfreq plan {r['network']} {r['options']} --by-op\n```"
    tree = f"commit {BEFORE}, read by " if r["when"] == "before" else ""
    if "error" in r:
        return "\n\n".join([title, command, r["error"], ""])
    lines = ["| part | operation | times | GB | of all |", "|---|---|---|---|---|"]
    lines += [
        f"| {m['part']} | {m['kind']} | {m['times']:g} | {m['bytes'] / 1e9:.2f} | "
        f"{m['bytes'] / r['traffic']:.1%} |"
        for m in r["moved"]
    ]
    by = f"Compiled in {r['compile_s']:.0f} s, {tree}commit {r['commit']}."
    return "\n\n".join([title, command, "\n".join(lines), by, ""])


def main() -> None:
    from jfreq.files import write_json
    from jfreq.monitoring import provenance

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="a part of 'ssast_base v5e:2x4 before'")
    only = parser.parse_args().only
    known = json.loads(FILE.read_text())["rows"] if FILE.exists() else {}
    wanted = {
        f"{name} {topology} {when}": (name, topology, when, text)
        for name, both in NETWORKS.items()
        for topology in TOPOLOGIES
        for when, text in both.items()
    }
    for key, (name, topology, when, text) in wanted.items():
        options = f"--topology {topology} {MESH} {text}"
        if only in key and known.get(key, {}).get("options") != options:
            known[key] = row(name, topology, when, options)
        rows = {k: known[k] for k in wanted if k in known}
        missing = [k for k in wanted if k not in known]
        versions = {p: provenance.version(p) for p in ("jax", "libtpu", "flax")}
        write_json(FILE, {"rows": rows, "versions": versions})
        foot = ", ".join(f"{p} {v}" for p, v in versions.items()) + ".\n"
        (RESULTS / "tpu_bytes.md").write_text(page(list(rows.values()), missing) + foot)


if __name__ == "__main__":
    main()
