"""Messages about what a run is to forget."""

from pathlib import Path
from typing import Any

import numpy as np

from helpers.image_files import colour16
from helpers.interruption import only_run
from helpers.situations import TINY, Hands, Situation, Table, of_vectors

IMAGE, LABEL = np.zeros((1, 8, 8), dtype=np.float32), "label=1"
BY_CLASS = ("strategy=generative_classifier", "generator=mixture", "generator.num_components=1", "threads=1")
BY_CLASS += ("generator.latent_dim=4", "train.iterations=1", "evaluate.generated_samples=0")


def forgetting(*words: str) -> Situation:
    """Call `gr-run forget=<folder>` on a finished run."""
    return lambda hands: hands.gr_run(f"forget={hands.over()}", *words)


def samples(*words: str, **arrays: Any) -> Situation:
    """Hand in arrays, to be forgotten."""

    def do(hands: Hands) -> object:
        np.savez("samples.npz", **arrays)
        return forgetting("samples=samples.npz", *words)(hands)

    return do


def file(name: str, content: str) -> Situation:
    """Hand in a file, to be forgotten."""

    def do(hands: Hands) -> object:
        Path(name).write_text(content, encoding="utf-8")
        return forgetting(f"samples={name}", LABEL)(hands)

    return do


def an_image_of_16_bits(hands: Hands) -> object:
    colour16("deep.png", np.zeros((8, 8, 3), dtype=np.uint16))
    return forgetting("samples=deep.png", LABEL)(hands)


def an_image_of_a_run_on_vectors(hands: Hands) -> object:
    of_vectors("strategy=finetune")(hands)
    return hands.gr_run(f"forget={only_run()}", "samples=one.png", LABEL)


def a_sample_of_one_of_many_tasks(hands: Hands) -> object:
    words = ("benchmark=permuted_digits", "benchmark.tasks=2", "scenario=domain", *TINY[:4], "threads=1")
    assert hands.gr_run(*words)[0] == 0
    np.savez("samples.npz", x=np.zeros((1, 12, 12), dtype=np.float32))
    return hands.gr_run(f"forget={only_run()}", "samples=samples.npz", LABEL)


def a_sample_of_a_mixture(hands: Hands) -> object:
    assert hands.gr_run(*BY_CLASS)[0] == 0
    np.savez("samples.npz", x=IMAGE)
    return hands.gr_run(f"forget={only_run()}", "samples=samples.npz", LABEL)


def samples_that_were_forgotten(hands: Hands) -> object:
    assert hands.gr_run("strategy=ncm", "strategy.arithmetic=fixed_point", "threads=1")[0] == 0
    for images in (IMAGE, np.stack([IMAGE, IMAGE + 1])):
        np.savez("samples.npz", x=images)
        answer = hands.gr_run(f"forget={only_run()}", "samples=samples.npz", LABEL)
    return answer


FORGETTING: Table = {
    "runner/forget_request.py": [
        ("is for samples=<file>", forgetting("classes=[1]", LABEL)),
        ("names neither classes nor tasks", forgetting()),
        ("is no class of this run", forgetting("classes=[ten]")),
        ("is no task of this run", forgetting("tasks=[2]")),
        ("leave out one of the two", forgetting("classes=[1]", "tasks=[1]")),
        ("can't be combined with samples", samples("classes=[1]", x=IMAGE)),
        ("samples: {} of {} (from 0) were forgotten before", samples_that_were_forgotten),
        ("for that of the sample", a_sample_of_one_of_many_tasks),
    ],
    "runner/sample_file.py": [
        ("those of the run have", samples(LABEL, x=np.zeros((2, 3)))),
        ("its samples are whole numbers", samples(LABEL, x=IMAGE.astype(np.int64))),
        ("has values outside", samples(LABEL, x=2 + IMAGE)),
        ("is no file; name one with x and y", forgetting("samples=none.npz", LABEL)),
        ("holds no array x", samples(LABEL, y=np.ones(1))),
        ("can't be an image", an_image_of_a_run_on_vectors),
        ("can't be read as an image", file("one.png", "no image")),
        ("has more than 8 bits", an_image_of_16_bits),
        ("has labels already", samples(LABEL, x=IMAGE, y=np.ones(1))),
        ("the class of {} is missing", samples(x=IMAGE)),
        ("has {} samples and {} labels", samples(x=IMAGE, y=np.ones(2))),
    ],
    "strategies/base.py": [
        ("this strategy keeps no exact sums", a_sample_of_a_mixture),
    ],
}  # fmt: skip
