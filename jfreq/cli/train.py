"""``jfreq train``, ``finetune`` and ``config``: commands about an experiment."""

from __future__ import annotations

from collections.abc import Sequence

from jfreq.cli.parsing import (
    HELP,
    experiment_name,
    first_argument,
    option_value,
    parse,
    with_data,
)
from jfreq.ranges import InputError, close_match


def train(argv: Sequence[str]) -> None:
    """Trains an experiment: jfreq train NAME --data SHARDS --workdir RUN [--steps N ...]"""
    name, rest = experiment_name("train", argv)
    import tyro

    from jfreq import recipes
    from jfreq.cli.options import TrainOptions

    args = parse(
        TrainOptions,
        args=rest,
        prog=f"jfreq train {name}",
        default=TrainOptions(recipes.load(name), tyro.MISSING),
        description=f"Trains {name}. Every field of the experiment can be set.",
    )
    from jfreq import distributed
    from jfreq.train.loop import train as run

    distributed.start()
    run(with_data(args.experiment, args.data), args.workdir)


def finetune(argv: Sequence[str]) -> None:
    """Fine-tunes a run or bundle: jfreq finetune RUN --data SHARDS --workdir RUN2"""
    from jfreq import recipes

    more = ""
    if argv and argv[0] in HELP:
        more = f"\n\n--recipe takes FILE.py:NAME or one of\n{', '.join(recipes.known_finetuning())}"
    trained, rest = first_argument(
        "finetune",
        argv,
        "RUN [options]; RUN is a run folder or bundle, or "
        "the name of an experiment to train from scratch",
        more=more,
    )
    import tyro

    from jfreq import distributed
    from jfreq.cli.options import FinetuneOptions
    from jfreq.config import replace
    from jfreq.evaluate import finetune as tuning
    from jfreq.evaluate.finetune_experiment import experiment_for

    distributed.start()
    recipe = option_value("--recipe", rest)
    args = parse(
        FinetuneOptions,
        args=rest,
        prog=f"jfreq finetune {trained}",
        default=FinetuneOptions(experiment_for(trained, recipe), tyro.MISSING),
        description="Trains the encoder and a classifier, in one run for each held-out fold.",
    )
    experiment, workdir = with_data(args.experiment, args.data), args.workdir
    new_folds = {"make_folds": args.make_folds, "fold_by": args.fold_by}
    new_folds = {name: value for name, value in new_folds.items() if value is not None}
    experiment = replace(experiment, data=replace(experiment.data, **new_folds))
    rows = {"folds": args.folds, "train_split": args.train_split, "test_split": args.test_split}
    if not args.fractions:
        report = tuning.finetune(experiment, workdir, **rows)
    else:
        report = tuning.by_fraction(
            experiment, workdir, args.fractions, repeats=args.repeats, **rows
        )
    if not distributed.is_chief():
        return
    print(report.to_markdown())
    if args.fractions:
        from jfreq import staging
        from jfreq.evaluate import plot

        with staging.opened(workdir, "workdir", write=True) as folder:
            report.save(folder / "fractions.json")
            plot.curves({experiment.name: report}, folder / "fractions.svg")


def config(argv: Sequence[str]) -> None:
    """Prints a view of an experiment: jfreq config show|diff|params|shardings NAME [options]"""
    from jfreq.cli import config_views

    view, rest = first_argument("config", argv, f"{'|'.join(config_views.VIEWS)} NAME [options]")
    if view not in config_views.VIEWS:
        hint = close_match(view, config_views.VIEWS)
        raise InputError(
            f"config: no view {view!r}{hint}; there are: {', '.join(config_views.VIEWS)}"
        )
    name, rest = experiment_name(f"config {view}", rest)
    from jfreq import recipes

    experiment = recipes.load(name)
    args = parse(
        config_views.View,
        args=rest,
        prog=f"jfreq config {view} {name}",
        default=config_views.View(experiment),
        description=f"Prints a view of {name}.",
    )
    print(config_views.VIEWS[view](args, experiment))
