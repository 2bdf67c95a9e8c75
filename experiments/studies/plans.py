"""SSAST-base compiled for TPU slices that are not here.

    make plan

Needs libtpu (`pip install 'jfreq[tpu-plan]'`), no TPU; two to five minutes for each compilation on
two CPU cores. Writes `experiments/results/plans.md`.
"""

import shlex
import subprocess
import sys
from pathlib import Path

RESULTS = Path(__file__).parents[1] / "results"
COMMON = "--method.encoder.dtype bfloat16 --method.encoder.remat full"
PLANS = {
    "v5e:4x4": "--topology v5e:4x4 --mesh.data 2 --mesh.fsdp 4 --mesh.tensor 2 --batch 1024 --largest-batch",
    "v5e:4x4, fused attention": "--topology v5e:4x4 --mesh.data 2 --mesh.fsdp 4 --mesh.tensor 2 --batch 1024 --method.encoder.attention splash",
    "v5e:16x16": "--topology v5e:16x16 --mesh.data 16 --mesh.fsdp 8 --mesh.tensor 2 --batch 16384",
    "v5p:4x4x4": "--topology v5p:4x4x4 --mesh.data 4 --mesh.fsdp 8 --mesh.tensor 2 --batch 16384",
}

HEAD = """# Plans

`ssast_base` (87 M parameters, clips of 10 s, 400 of 512 patches masked, two passes) in bfloat16 with
recomputed blocks, its train step compiled by the TPU compiler on a CPU machine: 64 clips a chip on
v5e, 256 on v5p. `make plan` writes this page. How to read it: [docs/plan.md](../../docs/plan.md).

That the step compiles, what it holds in memory and which collectives it runs are facts of the
compiled program. Times are bounds from data sheets: no TPU was used and no speed was measured. At 514
tokens the step is bound by memory: XLA's attention writes its 514 x 514 scores out; the fused kernel
does not.
"""


def page(title: str, options: str) -> str:
    """One plan: the command and what it printed."""
    words = ["plan", "ssast_base", *shlex.split(options), *shlex.split(COMMON)]
    command = [sys.executable, "-m", "jfreq", *words]
    print(shlex.join(["jfreq", *words]), file=sys.stderr, flush=True)
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    shown = f"jfreq plan ssast_base {options} \\\n  {COMMON}"
    return f"## {title}\n\n```\n{shown}\n```\n\n{done.stdout}"


def main() -> None:
    from jfreq.monitoring import provenance

    versions = ", ".join(f"{p} {provenance.version(p)}" for p in ("jax", "libtpu", "flax"))
    pages = [page(*plan) for plan in PLANS.items()]
    text = "\n".join([HEAD, *pages, f"{versions}; commit {provenance.commit()}."])
    (RESULTS / "plans.md").write_text(text + "\n")


if __name__ == "__main__":
    main()
