"""gr-run forget=<folder> samples=<file> takes single samples out of exact sums."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import gr_cli
from gr_cli.benchmarks.sources.image_decoding import decode_image
from gr_cli.errors import DataError
from gr_cli.results.folder import RunFolder
from gr_cli.training.experiment import prepare
from helpers.forgetting import learner_of_folder, same_state_and_scores
from helpers.image_files import pixels, put
from helpers.interruption import only_run
from helpers.shipped_methods import settings_of, train

SHORT = ("train.iterations=1", "threads=1", "strategy.arithmetic=fixed_point")
METHODS = {
    "ncm": ("strategy=ncm", *SHORT),
    "class": ("strategy=slda", "strategy.keep=class", *SHORT),
    "task": ("strategy=slda", "strategy.keep=task", *SHORT),
    "total": ("strategy=slda", "strategy.keep=total", *SHORT),
}
SLDA = METHODS["task"]


def trained_without(words, gone):
    """A learner after the stream of a run without some samples, given as (task, index); and the samples."""
    experiment, samples = prepare(settings_of(*words)), []
    for i, stage in enumerate(experiment.stages):
        index = torch.tensor([k for task, k in gone if task == i], dtype=torch.long)
        samples += [(x, int(y)) for x, y in zip(*stage.train.batch(index), strict=True)]
        remaining = torch.ones(len(stage.train), dtype=torch.bool).index_fill(0, index, False).nonzero().squeeze(1)
        experiment.stages[i] = replace(stage, train=stage.train.select(remaining))
        train([experiment], experiment.learner, i)
    return experiment, samples


@pytest.mark.parametrize("scenario", ["class", "task", "domain"])
@pytest.mark.parametrize("method", METHODS)
def test_all_is_as_without_a_sample(gr_run, made, method, scenario):
    words = (*METHODS[method], f"scenario={scenario}")
    folder = made(*words)
    before = learner_of_folder(folder)
    experiment, samples = trained_without(words, [(1, 4), (3, 0), (3, 200)])
    classes = ["2367"[2 * (task == 3) + int(y) % 2] for (_, y), task in zip(samples, (1, 3, 3), strict=True)]
    np.savez("gone.npz", x=torch.stack([x for x, _ in samples]).numpy(), y=np.array(classes))
    code, out, err = gr_run(f"forget={folder}", "samples=gone.npz")
    assert code == 0, err
    assert out.startswith("forgotten: 3 samples of classes ") and "not verified: that they were in the stream" in out
    after = learner_of_folder(folder)
    same_state_and_scores(after, experiment.learner, experiment)
    with pytest.raises(AssertionError):
        same_state_and_scores(before, experiment.learner, experiment)
    (entry,) = RunFolder(folder).status()["forgotten"]
    assert (entry["tasks"], entry["samples"]) == ([1, 3], 3)


def test_a_sample_is_not_taken_out_twice_by_the_same_call(gr_run, made):
    folder, (_, [(x, y)]) = made(*SLDA), trained_without(SLDA, [(0, 7)])
    np.savez("gone.npz", x=x.numpy())
    words = (f"forget={folder}", "samples=gone.npz", f"label={y}")
    assert gr_run(*words)[0] == 0
    before = (folder / "checkpoint.pt").read_bytes()
    code, out, _ = gr_run(*words)
    assert code == 0 and out.startswith(f"1 sample of class {y} of task 0: forgotten before; nothing to do")
    assert before == (folder / "checkpoint.pt").read_bytes()
    # Classes can be forgotten afterwards, but nothing twice.
    assert gr_run(f"forget={folder}", "tasks=[0]")[1].startswith("forgotten: classes 0, 1 of task 0")
    assert "nothing to do" in gr_run(*words)[1]


def test_no_sample_is_taken_out_twice_by_another_file(gr_run, made):
    folder, (_, samples) = made(*SLDA), trained_without(SLDA, [(0, 7), (0, 8), (0, 9)])
    x, y = torch.stack([x for x, _ in samples]).numpy(), np.array([str(y) for _, y in samples])
    np.savez("gone.npz", x=x[:2], y=y[:2])
    assert gr_run(f"forget={folder}", "samples=gone.npz")[0] == 0
    before = (folder / "checkpoint.pt").read_bytes()
    np.savez("gone.npz", x=x[1::-1], y=y[1::-1])  # in another order
    code, out, _ = gr_run(f"forget={folder}", "samples=gone.npz")
    assert code == 0 and "forgotten before; nothing to do" in out
    for index, repeated in (([2, 1], "1 of 2"), ([0, 1, 1], "0, 1, 2 of 3")):
        np.savez("gone.npz", x=x[index], y=y[index])
        code, _, err = gr_run(f"forget={folder}", "samples=gone.npz")
        assert code == 2 and f"samples: {repeated} (from 0) were forgotten before" in err, err
    assert before == (folder / "checkpoint.pt").read_bytes()


def test_samples_that_can_not_have_been_there_are_refused(gr_run, made):
    folder = made(*SLDA)
    before = (folder / "checkpoint.pt").read_bytes()
    many = np.ones((400, 1, 8, 8), dtype=np.float32)
    for x, label in ((many, 3), (many[:100], 0)):  # more than there are of the class; pixels that are always dark
        np.savez("gone.npz", x=x)
        code, out, err = gr_run(f"forget={folder}", "samples=gone.npz", f"label={label}")
        assert code == 2 and "counts or sums would be those of no samples" in err, out
    with pytest.raises(DataError, match="were not in task 0"):
        gr_cli.load_run(folder).forget(samples=many[:100], label=1)
    assert before == (folder / "checkpoint.pt").read_bytes()


def test_sums_in_float64_are_refused(gr_run, made):
    folder = made("strategy=ncm", "train.iterations=1", "threads=1")
    np.savez("gone.npz", x=np.zeros((1, 8, 8), dtype=np.float32))
    code, _, err = gr_run(f"forget={folder}", "samples=gone.npz", "label=3")
    assert code == 2 and "strategy.arithmetic=float64: rounds sums" in err and "=fixed_point" in err


def test_an_image_is_forgotten_by_its_file(gr_run):
    for name in ("cat", "dog"):
        for part, each in (("train", 12), ("test", 2)):
            for i in range(each):
                put(f"photos/{part}/{name}/{i}.png", pixels(8, 8, 3))
    words = ("benchmark=image_folder", "benchmark.source.path=photos", "benchmark.classes_per_task=1", *SLDA)
    assert gr_run(*words)[0] == 0
    folder = only_run()
    code, _, err = gr_run(f"forget={folder}", "samples=photos/train/dog/3.png", "label=dog")
    assert code == 0, err
    gone = torch.from_numpy(decode_image("photos/train/dog/3.png", (3, 8, 8)).values).float() / 255
    x, _ = prepare(settings_of(*words)).stages[1].train.batch(torch.arange(12))
    experiment, _ = trained_without(words, [(1, int((x - gone).flatten(1).abs().sum(1).argmin()))])
    same_state_and_scores(learner_of_folder(folder), experiment.learner, experiment)


def test_rounded_sums_classify_as_well(gr_run):
    for words in (("strategy=slda", *SHORT[:2]), SLDA):
        assert gr_run(*words)[0] == 0
    exact, rounded = gr_cli.load_results("outputs")["average_accuracy"]
    assert exact > 0.7 and abs(exact - rounded) < 0.01


def test_the_file_need_not_be_where_the_run_was_started(gr_run, made, monkeypatch, tmp_path):
    folder, (_, [(x, y)]) = made(*SLDA).absolute(), trained_without(SLDA, [(0, 7)])
    Path("elsewhere").mkdir()
    monkeypatch.chdir("elsewhere")
    np.savez("gone.npz", x=x.numpy())
    assert gr_run(f"forget={folder}", "samples=gone.npz", f"label={y}")[0] == 0
