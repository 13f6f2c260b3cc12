"""Messages about budgets of privacy, and about combinations that would void a claim."""

from dataclasses import replace

from gr_cli.benchmarks import Digits
from gr_cli.benchmarks.sources.base import Dataset
from helpers.image_files import folder
from helpers.interruption import StopAt, only_run
from helpers.situations import Hands, Situation, Table, of_vectors, typed

MEANS = "strategy=generative_classifier generator._target_=helpers.private_parts.NoisyMeans privacy.epsilon=2 threads=1"
REPLAY = (
    "strategy=generative_replay generator._target_=helpers.private_parts.NoisyMeans privacy.epsilon=2 threads=1 "
    "train.iterations=2 benchmark.classes_per_task=5 model.hidden_sizes=[8]"
)
COMPONENTS = "benchmark/features=conv_random benchmark.features.components=4"
FROM_GENERATED = "strategy.current_data=generated strategy.generator_training=before"


def means(words: str) -> Situation:
    return typed(f"{MEANS} {words}")


def budget(words: str) -> Situation:
    return typed(f"privacy.epsilon=2 {words}")


def equal_samples(*rows: int) -> Situation:
    """Call `gr-run` with a budget on digits of which the sample at each of these rows is that of row 0."""

    def do(hands: Hands) -> object:
        load = Digits.load

        def with_copies(source: Digits) -> Dataset:
            data = load(source)
            store = data.train.store.clone()
            store[list(rows)] = store[0].clone()
            return replace(data, train=replace(data.train, store=store))

        hands.monkeypatch.setattr(Digits, "load", with_copies)
        return hands.gr_run(*MEANS.split())

    return do


def of_images(hands: Hands) -> object:
    """Call `gr-run` with a budget on a folder of images, whose size is the most frequent one."""
    folder()
    return hands.gr_run("benchmark=image_folder", "benchmark.source.path=images", *MEANS.split())


def killed(harm: str) -> Situation:
    """Resume a run with noise of the system that was killed, or one whose ledger was changed."""

    def do(hands: Hands) -> object:
        words = (*REPLAY.split(), *FROM_GENERATED.split(), "privacy.secure=true")
        with hands.monkeypatch.context() as patch:
            patch.setattr("gr_cli.terminal.run_display.TerminalObserver", lambda **_: StopAt(1, 0))
            assert hands.gr_run(*words)[0] == 130
        path = only_run() / "privacy_ledger.jsonl"
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
        kept = {"stop": lines[:-1], "first": lines[5:], "damage": ["no entry\n"]}[harm]
        path.write_text("".join(kept), encoding="utf-8")
        return hands.gr_run(*words)

    return do


PRIVACY: Table = {
    "privacy/claims.py": [
        ("there is no budget for it", typed("privacy.secure=true")),
        ("set train.online=false", budget("preset=online")),
        ("set train.epochs=null", budget("train.iterations=null train.epochs=1")),
        ("intervals of a task-free stream", budget("train.task_boundaries=unknown strategy.consolidate_every=100")),
        ("mean and deviation of raw samples", budget("normalise=first_task")),
        ("which samples have a label", budget("labels.noise=0.1")),
        ("when the run ends would depend", budget("prune_below=[0.1]")),
    ],
    "privacy/ledger.py": [
        ("the accesses of this task would spend", killed("stop")),
        ("can't be read, so that it is unknown", killed("damage")),
        ("has no entry for task", killed("first")),
    ],
    "training/private_training.py": [
        ("the list of classes follows from the labels", of_vectors(f"{MEANS}")),
        ("one sample could change the format", of_images),
        ("no budget pays for this", means(COMPONENTS)),
        ("tasks exchange samples", means("benchmark.task_overlap=0.1")),
        ("tasks repeat the classes", means("benchmark.repetitions=2")),
        ("are twice in a task", equal_samples(1)),
        ("are in earlier tasks, too", equal_samples(2)),
        ("no budget pays for what it does", budget("strategy=er"), "strategy=er: no budget pays for what it does"),
        ("the importance of parameters", budget("strategy=ewc gradient_rule._target_=helpers.private_parts.Spending")),
        ("the generator spends the budget", typed(f"{REPLAY} gradient_rule._target_=helpers.private_parts.Spending")),
        ("the solver learns raw samples, without", budget("strategy=finetune")),
        (
            "is fitted to raw samples",
            budget("strategy=generative_classifier generator=gaussian"),
            "generator=gaussian: is fitted",
        ),
        ("learns raw samples by gradients", budget("strategy=generative_classifier generator=class_vae")),
    ],
}  # fmt: skip
