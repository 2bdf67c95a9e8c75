"""What does watching a run cost: labelled sets in the loop, metrics, a profiler that is off?

    jfreq bench evals

Updates of small recipes on synthetic clips, and one measurement of 512 labelled rows, in turn; the
cost is their ratio over the default interval. Then updates whose metrics are read, flagged or not
read at all. Ten minutes on two CPU cores.
"""

import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

RECIPES = ("ssast_nano", "eat_nano", "mae_nano", "data2vec_nano")
STEPS, UPDATES = 10_000, 10


class Watched:
    """A run that is ready to be updated and to be measured."""

    def __init__(self, name: str, folder: Path):
        import jax

        from jfreq import recipes
        from jfreq.config import Eval, replace
        from jfreq.train import evals, initial_state, plan, step
        from jfreq.train.loop import Feed

        experiment = replace(
            recipes.load(name),
            data__path=(str(folder),),
            data__split=None,
            steps=STEPS,
            evals=(Eval("tones", str(folder)),),
        )
        self.setup = plan.plan_run(experiment)
        self.batch = experiment.batch
        with jax.set_mesh(self.setup.mesh):
            (self.plan,) = evals.plan_evals(self.setup)
            self.evaluator = evals.Evaluator(self.setup, self.plan)
            self.update, _ = step.compile_step(self.setup)
            self.state = initial_state.first_state(self.setup)
            self.key = initial_state.run_key(self.setup)
            self.rows = next(Feed(self.setup, 0))

    def step(self):
        self.state, metrics = self.update(self.state, self.rows, self.key)
        return metrics

    def updates(self) -> None:
        import jax

        with jax.set_mesh(self.setup.mesh):
            for _ in range(UPDATES):
                metrics = self.step()
            jax.block_until_ready(metrics)

    def measure(self) -> None:
        import jax

        with jax.set_mesh(self.setup.mesh):
            self.evaluator(self.state)

    def ways(self) -> dict:
        """The same updates, whose metrics are read in several ways."""
        import jax

        from jfreq.monitoring.goodput import Ledger
        from jfreq.monitoring.profiler import Profiler
        from jfreq.monitoring.progress import Progress
        from jfreq.monitoring.throughput import Meter
        from jfreq.train.pending import Pending

        meter = Meter(self.setup, Ledger(time.time()))
        saves: Any = None  # they are asked only where a loss is not finite
        quiet = Progress(STEPS, quiet=True)
        pending = Pending(self.setup, Path(), saves, meter, None, quiet)
        profiler = Profiler(range(0), Path(), print, meter.paused)

        def read_all() -> None:
            before = None
            with jax.set_mesh(self.setup.mesh):
                for _ in range(UPDATES):
                    metrics = self.step()
                    if before is not None:
                        jax.device_get(before)
                    before = metrics
                jax.device_get(before)

        def flagged() -> None:
            with jax.set_mesh(self.setup.mesh):
                for i in range(UPDATES):
                    sent = time.perf_counter()
                    pending.replace(i + 1, self.step(), sent)
                pending.flush()

        def profiler_off() -> None:
            with jax.set_mesh(self.setup.mesh):
                for i in range(UPDATES):
                    profiler.at(i + 1, pending.flush)
                    with profiler.update(i + 1):
                        with profiler.span("wait for the batch"):
                            pass
                        sent = time.perf_counter()
                        with profiler.span("dispatch"):
                            metrics = self.step()
                        with profiler.span("wait for the update before"):
                            pending.replace(i + 1, metrics, sent)
                pending.flush()

        return {
            "one flag an update": flagged,
            "the same, and a profiler that is off": profiler_off,
            "all metrics read at every update": read_all,
            "nothing read": self.updates,
        }


def profiler_off(calls: int = 20_000) -> float:
    """Seconds that a profiler which is off takes of an update."""
    from jfreq.monitoring.profiler import Profiler

    profiler = Profiler(range(0), Path(), print, lambda *_: None)
    began = time.perf_counter()
    for i in range(calls):
        profiler.at(i, print)
        with profiler.update(i):
            for name in ("wait for the batch", "dispatch", "wait for the update before"):
                with profiler.span(name):
                    pass
    return (time.perf_counter() - began) / calls


def main(rounds: int = 20, out: Path | None = None) -> None:
    """Writes bench_evals.md and .json.

    Args:
        rounds: timed rounds of every table.
        out: folder of the results, by default experiments/results.
    """
    import common

    from jfreq.data.prepare.run import prepare

    facts = common.begin(2)
    lines = [
        "| recipe | batch | an update | one measurement | default interval | cost, median of rounds "
        "[95 %] |",
        "|---|---|---|---|---|---|",
    ]
    found, last = {}, None
    with tempfile.TemporaryDirectory() as tmp:
        folder = Path(tmp) / "tones"
        prepare("synthetic:tones", folder, n=640, seconds=2.0, progress=False)
        for name in RECIPES:
            run = Watched(name, folder)
            contenders = {"updates": run.updates, "measure": run.measure}
            times = common.paired(contenders, rounds=rounds, warmup=1)
            once, update = times["measure"], [t / UPDATES for t in times["updates"]]
            # Of the time of a run: every interval holds its updates and one measurement.
            between = [run.plan.every * t for t in update]
            cost = common.ratio(once, [a + b for a, b in zip(once, between)])
            found[name] = {"every": run.plan.every, "cost": cost._asdict(), "times_s": times}
            lines.append(
                f"| `{name}` | {run.batch} | {1000 * statistics.median(update):.0f} ms "
                f"| {statistics.median(once):.2f} s | {run.plan.every:,} updates "
                f"| {cost.median:.2%} [{cost.low:.2%}, {cost.high:.2%}] |"
            )
            print(lines[-1], flush=True)
            if last is None:
                last = common.Table(
                    f"{UPDATES} updates of {name}", common.paired(run.ways(), rounds=rounds)
                )
                print(last.to_markdown(), flush=True)
    assert last is not None
    intro = (
        f"A measurement encodes 512 rows of 2 s, and fits and tests kNN and a ridge probe on five "
        f"folds. The interval is the default of a run of {STEPS:,} updates; cost is the part of "
        "the time of a run that measuring takes."
    )
    off = profiler_off()
    share = off / statistics.median(found[RECIPES[0]]["times_s"]["updates"]) * UPDATES
    note = (
        f"A profiler that is off takes {1e6 * off:.1f} µs of an update by itself, {share:.5%} of one "
        f"of {RECIPES[0]}.\n"
    )
    common.save("evals", "Watching a run", intro, ["\n".join(lines) + "\n", last, note],
                facts=facts,
                more={"evals": found, "profiler_off_s": off}, out=out)  # fmt: skip


if __name__ == "__main__":
    import common

    common.run(main)
