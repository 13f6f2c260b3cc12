"""Messages about searches with `hydra/sweeper=optuna`."""

import shutil
from importlib.metadata import PackageNotFoundError
from pathlib import Path

from gr_cli.system.locks import locked
from helpers.situations import TINY, Hands, Situation, Table, failing

SEARCH = ("-m", "hydra/sweeper=optuna", *TINY, "hydra.sweeper.n_trials=2")
HELD_OUT = "benchmark.validation_share=0.2"
LR = "optimizer.lr=0.1,0.2"


def search(*words: str) -> Situation:
    """A search with these overrides."""
    return lambda hands: hands.gr_run(*SEARCH, *words)


def without_optuna(hands: Hands) -> object:
    hands.monkeypatch.setattr("gr_cli.cli.sweepers.selection.version", failing(PackageNotFoundError("optuna")))
    return hands.gr_run(*SEARCH, HELD_OUT, LR)


def with_old_optuna(hands: Hands) -> object:
    hands.monkeypatch.setattr("gr_cli.cli.sweepers.selection.version", lambda name: "2.10.1")
    return hands.gr_run(*SEARCH, HELD_OUT, LR)


def without_cmaes(hands: Hands) -> object:
    hands.monkeypatch.setattr("gr_cli.cli.sweepers.selection.find_spec", lambda name: None)
    return hands.gr_run(*SEARCH, HELD_OUT, LR, "hydra.sweeper.sampler=cmaes")


def searched(hands: Hands) -> Path:
    """The folder of a finished search."""
    assert hands.gr_run(*SEARCH, HELD_OUT, LR)[0] == 0
    (folder,) = Path("outputs/sweeps").iterdir()
    return folder


def with_another_sampler(hands: Hands) -> object:
    searched(hands)
    return hands.gr_run(*SEARCH, HELD_OUT, LR, "hydra.sweeper.sampler=random")


def with_another_sampler_in_a_database(hands: Hands) -> object:
    words = (*SEARCH, HELD_OUT, LR, "hydra.sweeper.storage=sqlite:///study.db")
    assert hands.gr_run(*words)[0] == 0
    return hands.gr_run(*words, "hydra.sweeper.sampler=random")


def with_a_damaged_study(hands: Hands) -> object:
    (searched(hands) / "study.journal").write_text("nothing\n")
    return hands.gr_run(*SEARCH, HELD_OUT, LR)


def at_the_same_time(hands: Hands) -> object:
    with locked(searched(hands)):
        return hands.gr_run(*SEARCH, HELD_OUT, LR)


def without_a_value(hands: Hands) -> object:
    """A metric that is undefined only after training, as the distance of too few samples."""
    hands.monkeypatch.setattr("gr_cli.results.record.Result.value", lambda self, metric: None)
    return hands.gr_run(*SEARCH, HELD_OUT, LR)


def pruned(hands: Hands) -> object:
    shutil.rmtree("outputs", ignore_errors=True)
    return hands.gr_run(*TINY, "prune_below=[1]")


SEARCHES: Table = {
    "cli/overrides.py": [("is for a sweep", lambda hands: hands.gr_run("hydra/sweeper=optuna"))],
    "cli/sweepers/selection.py": [
        ("must name a sweeper", lambda hands: hands.gr_run("-m", "hydra.sweeper=null", "seed=0")),
        ("Optuna is not installed", without_optuna),
        ("or newer is needed", with_old_optuna),
        ("cmaes is not installed", without_cmaes),
        ("each trial would spend", search(HELD_OUT, LR, "privacy.epsilon=1")),
    ],
    "cli/sweepers/search_space.py": [
        ("has nothing to search", search(HELD_OUT)),
        ("has no grid", search(HELD_OUT, "optimizer.lr=interval(0.1,1)", "hydra.sweeper.sampler=grid")),
        ("must list values", search(HELD_OUT, LR, "seed=interval(0,1)")),
        ("has a tag", search(HELD_OUT, "optimizer.lr=tag(wide,interval(0.1,1))")),
        ("with a step", search(HELD_OUT, "train.batch_size=tag(log,range(2,9,2))")),
        ("with a step", search(HELD_OUT, "optimizer.lr=tag(log,range(1.0,9))")),
        ("from a lower to a higher number", search(HELD_OUT, "optimizer.lr=interval(1,0.1)")),
        ("has no values", search(HELD_OUT, "train.batch_size=range(9,2)")),
        ("has no logarithm", search(HELD_OUT, "optimizer.lr=tag(log,interval(0,1))")),
    ],
    "cli/sweepers/optuna_sweeper.py": [
        ("_parse", search(HELD_OUT, "+hydra.sweeper.params.seed='1,2['"), "can't be parsed"),
        ("_settings", search(HELD_OUT, "optimizer.lrr=0.1,0.2"), "no such setting"),
        ("is the same for all trials", search(HELD_OUT, LR, "objective=forgetting,average_accuracy")),
        ("shows one benchmark", search(HELD_OUT, LR, "inspect=true")),
        ("better is not known", search(LR, "strategy=generative_replay", "objective=sample_class_share")),
        ("another process runs this search", at_the_same_time),
        ("has no value in", without_a_value),
    ],
    "cli/sweepers/study.py": [
        ("can't be read", with_a_damaged_study),
        ("can't be opened", search(HELD_OUT, LR, "hydra.sweeper.storage=nonsense://x")),
        ("choose another name", with_another_sampler_in_a_database),
        ("name another folder with", with_another_sampler),
    ],
    "evaluation/objective.py": [
        ("no such metric", search(LR, "objective=forgeting")),
        ("is measured on validation samples", search(LR)),
        ("has no value with", search("strategy=finetune,joint", "objective=forgetting")),
    ],
    "training/experiment.py": [
        ("this benchmark has", lambda hands: hands.gr_run(*TINY, "train.tasks=3")),
        (
            "the first tasks contain samples of later ones",
            lambda hands: hands.gr_run(*TINY, "train.tasks=1", "benchmark.task_overlap=0.1"),
        ),
    ],
    "runner/run_group.py": [("pruned after task", pruned)],
}
