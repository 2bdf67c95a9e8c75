"""Eight networks compiled for TPU slices that are not here.

    make plan                                            # all that is not there yet, and the page
    python experiments/studies/plans.py --only ssast_base   # those whose name holds it
    python experiments/studies/plans.py --page           # the page alone

Needs libtpu (`pip install 'jfreq[tpu-plan]'`), no TPU; two to ten minutes for each compilation on two
CPU cores. What is compiled is kept in `experiments/results/plans/`, a file for each plan, with the
options that it was compiled with; so a study that was interrupted goes on, and a plan whose options
have changed is compiled anew. Writes `experiments/results/plans.md`.
"""

import argparse
import dataclasses
import json
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parents[1] / "results"
FOLDER = RESULTS / "plans"
LARGE = "--method.encoder.width 1024 --method.encoder.depth 24 --method.encoder.heads 16"
ENCODER = "--method.encoder.dtype bfloat16 --method.encoder.attention splash"
DECODER = "--method.decoder.dtype bfloat16"
SHARDED = ("--mesh.data 1 --mesh.fsdp -1", "--mesh.data -1 --mesh.fsdp 8")
"""Meshes of large networks: on 16 chips, on more."""


@dataclasses.dataclass(frozen=True)
class Network:
    """A recipe with options, and how many clips a chip of v5e takes."""

    recipe: str
    options: str
    rows: int

    @property
    def large(self) -> bool:
        return LARGE in self.options or self.recipe.endswith("large")


NETWORKS = {
    "ssast_base": Network("ssast_base", ENCODER, 16),
    "mae_base": Network("audiomae_base", f"{ENCODER} {DECODER}", 32),
    "eat_base": Network("eat_base", f"{ENCODER} {DECODER}", 4),
    "aape_base": Network("aape_base", f"{ENCODER} {DECODER}", 4),
    "ssast_large": Network("ssast_base", f"{ENCODER} {LARGE}", 8),
    "mae_large": Network("audiomae_base", f"{ENCODER} {DECODER} {LARGE}", 16),
    "eat_large": Network("eat_audioset_large", f"{ENCODER} {DECODER}", 2),
    "aape_large": Network("aape_base", f"{ENCODER} {DECODER} {LARGE}", 2),
}
TOPOLOGIES = {"v5e:4x4": 1, "v5p:4x4x4": 4, "v6e:16x16": 2}
"""Times as many clips as a chip of v5e takes."""
CHIPS = {"v5e:4x4": 16, "v5p:4x4x4": 64, "v6e:16x16": 256}


def options(network: str, topology: str) -> str:
    """Of ``jfreq plan``, behind the recipe."""
    one = NETWORKS[network]
    batch = one.rows * TOPOLOGIES[topology] * CHIPS[topology]
    mesh = SHARDED[CHIPS[topology] > 16] if one.large else "--mesh.data -1"
    return f"--topology {topology} {mesh} --batch {batch} {one.options}"


def file_of(network: str, topology: str) -> Path:
    """Where a plan is kept."""
    return FOLDER / f"{network}_{topology.replace(':', '_')}.json"


def kept(network: str, topology: str) -> dict[str, Any] | None:
    """A plan that was compiled with the options of today."""
    path = file_of(network, topology)
    if not path.exists():
        return None
    found = json.loads(path.read_text())
    return found if found["options"] == options(network, topology) else None


def compiled(network: str, topology: str) -> dict[str, Any]:
    """What ``jfreq plan`` says, or the line with which it refuses."""
    from jfreq.monitoring import provenance

    words = ["plan", NETWORKS[network].recipe, *shlex.split(options(network, topology))]
    print(shlex.join(["jfreq", *words]), file=sys.stderr, flush=True)
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "plan.json"
        command = [sys.executable, "-P", "-m", "jfreq", *words, "--json", str(out)]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode not in (0, 2):
            raise SystemExit(done.stderr)
        plan = json.loads(out.read_text()) if done.returncode == 0 else {}
    plan.pop("moved", None)
    versions = {name: provenance.version(name) for name in ("jax", "libtpu", "flax")}
    return {
        "network": network,
        "topology": topology,
        "options": options(network, topology),
        "refused": done.stderr.strip().splitlines()[-1] if done.returncode else "",
        "versions": versions,
        "commit": provenance.commit(),
        **plan,
    }


# ------------------------------------------------------------------ the page

HEAD = """# Plans

The training step of eight networks, front end inside, clips of 10 s, compiled by the TPU compiler on a
CPU machine for slices that were not there: 16 chips of v5e, 64 of v5p (Cloud TPU calls that v5p-128,
because it counts cores) and 256 of v6e. `make plan` writes this page, a file in [plans/](plans) for each
line; how to read it: [docs/plan.md](../../docs/plan.md).

That a step compiles, what it holds in memory and which collectives it runs are facts of the compiled
program. Times are bounds from data sheets: no TPU was used and no speed was measured. *Bytes* and
*products* are the times that main memory and matrix products take at their full rates, *bound* is the
largest of all such times, *MFU* what is left of the peak then, without what is recomputed.
"""
COLUMNS = (
    "network", "topology", "data x fsdp x tensor", "batch", "memory", "bytes", "products", "links",
    "bound", "MFU at most", "million examples a day",
)  # fmt: skip


def page(plans: list[dict[str, Any]], missing: list[str]) -> str:
    """The table of all plans, then each."""
    from jfreq.plan.table import lines

    there = [plan for plan in plans if not plan["refused"]]
    parts = [HEAD, *lines(COLUMNS, [_row(plan) for plan in there]), ""]
    parts += [
        f"`{_name(plan)}` is refused: {plan['refused']}.\n" for plan in plans if plan["refused"]
    ]
    if missing:
        parts += [f"Not compiled yet: {', '.join(f'`{name}`' for name in missing)}.", ""]
    parts += [_details(plan) for plan in there]
    return "\n".join(parts).rstrip() + "\n"


def _name(plan: dict[str, Any]) -> str:
    return f"{plan['network']} on {plan['topology']}"


def _row(plan: dict[str, Any]) -> tuple[str, ...]:
    from jfreq.plan.table import milliseconds, size

    roof = plan["roofline"]
    return (
        plan["network"],
        plan["topology"],
        "x".join(map(str, plan["mesh"].values())),
        str(plan["batch"]),
        size(plan["memory"]["peak"]),
        milliseconds(roof["memory"]),
        milliseconds(roof["compute"]),
        milliseconds(roof["communication"]),
        f"{milliseconds(roof['best'])}, {roof['bound']}",
        f"{roof['mfu']:.1%}",
        f"{roof['examples_per_day'] / 1e6:.4g}",
    )


LEAST = 2**20
"""Collectives that send less in a step are not shown."""


def _details(plan: dict[str, Any]) -> str:
    from jfreq.plan.table import lines, size

    recipe = NETWORKS[plan["network"]].recipe
    sent = [c for c in plan["collectives"] if c["sent"] + c["crossing"] >= LEAST]
    rows = [
        (
            c["kind"],
            "+".join(c["axes"]),
            c["shapes"][0] + (f" and {len(c['shapes']) - 1} more" if len(c["shapes"]) > 1 else ""),
            f"{c['times']:g}",
            size(c["sent"]),
        )
        for c in sent[:8]
    ]
    gathers = "No collective brings rows of the batch together."
    if plan["gathers"]:
        gathers = f"{len(plan['gathers'])} collectives bring rows of the batch together."
    rest = sum(c["sent"] for c in plan["collectives"]) - sum(c["sent"] for c in sent[:8])
    versions = ", ".join(f"{name} {version}" for name, version in plan["versions"].items())
    return "\n".join(
        [
            f"## {_name(plan)}",
            "",
            f"```sh\njfreq plan {recipe} {plan['options']}\n```",
            "",
            f"{plan['parameters']:,} parameters, {plan['replicated']:.2%} of them whole on every "
            f"device; state and batch {size(plan['memory']['arguments'])} of it; "
            f"{plan['flops'] / plan['devices'] / 1e12:.4g} TFLOP and {plan['traffic'] / 1e9:.4g} GB "
            f"a step and device, {plan['model_flops'] / plan['flops']:.0%} of the FLOPs the "
            "model's own.",
            "",
            *(lines(("collective", "over", "array", "times", "sent"), rows) if rows else []),
            *([""] if rows else []),
            f"{gathers} All others send {size(rest)}. Compiled in {plan['compile_s']:.0f} s, "
            f"{versions}, commit {plan['commit']}.",
            "",
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--only", default="", help="compile only plans whose name holds this")
    parser.add_argument("--page", action="store_true", help="compile nothing")
    args = parser.parse_args()
    FOLDER.mkdir(exist_ok=True)
    pairs = [(network, topology) for network in NETWORKS for topology in TOPOLOGIES]
    for network, topology in pairs:
        wanted = not args.page and args.only in file_of(network, topology).stem
        if wanted and kept(network, topology) is None:
            plan = compiled(network, topology)
            file_of(network, topology).write_text(json.dumps(plan, indent=1) + "\n")
    plans = {pair: plan for pair in pairs if (plan := kept(*pair))}
    missing = [
        f"{network} on {topology}"
        for network, topology in pairs
        if (network, topology) not in plans
    ]
    (RESULTS / "plans.md").write_text(page(list(plans.values()), missing))


if __name__ == "__main__":
    main()
