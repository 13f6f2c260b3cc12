"""Data that change or move between start and resumption of a run, and their caches."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from gr_cli.benchmarks import ConvFeatureExtractor, Tensors, permuted, split
from gr_cli.benchmarks.dataset_hash import dataset_hash
from helpers.features import vectors_of
from helpers.image_files import folder, pixels, put
from helpers.interruption import csvs, only_run

IMAGES = ("benchmark=image_folder", "benchmark.source.path=images", "benchmark.classes_per_task=1")
ARRAYS = ("benchmark=arrays", "benchmark.source.path=set.npz")
FAST = ("strategy=finetune", "train.iterations=6", "log.every=3", "model.hidden_sizes=[8]", "threads=1")


def saved(seed: int = 0, **changes: np.ndarray) -> None:
    rng = np.random.default_rng(seed)
    given = {"x": rng.random((40, 6)).astype(np.float32), "y": np.arange(40) % 4} | changes
    np.savez("set.npz", **given)


CHANGES = [lambda x, _: x.__setitem__((7, 3), 0.5), lambda _, y: y.__setitem__([0, 1], [1, 0])]


@pytest.mark.parametrize("change", CHANGES, ids=["a value", "two labels"])
def test_a_run_does_not_resume_with_other_samples_or_labels(gr_run, interrupted, change):
    saved()
    interrupted(*ARRAYS, *FAST)
    with np.load("set.npz") as stored:
        x, y = stored["x"].copy(), stored["y"].copy()
    before = Path("set.npz").read_bytes()
    change(x, y)
    np.savez("set.npz", x=x, y=y)
    for words in ((*ARRAYS, *FAST), (f"resume={only_run()}",)):
        code, _, err = gr_run(*words)
        assert code == 2 and err.count("\n") == 1, err
        assert "other samples or labels than its benchmark has now" in err and "fresh=true" in err
    Path("set.npz").write_bytes(before)
    assert gr_run(*ARRAYS, *FAST)[0] == 0


def test_a_run_resumes_with_rewritten_data_of_the_same_content(gr_run, interrupted):
    saved()
    interrupted(*ARRAYS, *FAST)
    saved()
    os.utime("set.npz", ns=(0, 0))
    assert gr_run(*ARRAYS, *FAST)[0] == 0


def test_a_stored_result_of_other_data_is_shown_with_a_warning(gr_run):
    saved()
    assert gr_run(*ARRAYS, *FAST)[0] == 0
    assert gr_run(*ARRAYS, *FAST)[::2] == (0, "")
    saved(seed=1)
    code, out, err = gr_run(*ARRAYS, *FAST)
    assert code == 0 and "average accuracy" in out
    assert err.count("\n") == 1 and "was trained on other samples or labels than its benchmark has now" in err
    Path("set.npz").unlink()
    assert gr_run(*ARRAYS, *FAST)[::2] == (0, "")


def test_a_verification_reports_changed_data(gr_run):
    saved()
    assert gr_run(*ARRAYS, *FAST)[0] == 0
    saved(seed=1)
    code, out, _ = gr_run(f"verify={only_run()}")
    assert code == 1 and "data was" in out


def test_the_dataset_hash_depends_on_samples_labels_and_tasks():
    x, y = torch.rand(12, 1, 4, 4), torch.arange(12) % 4
    prints = {
        dataset_hash(split(Tensors(x, y), seed=0, classes_per_task=2)),
        dataset_hash(split(Tensors(x, y.flip(0)), seed=0, classes_per_task=2)),
        dataset_hash(split(Tensors(x.flip(0), y), seed=0, classes_per_task=2)),
        dataset_hash(split(Tensors(x, y), seed=0, classes_per_task=4)),
        dataset_hash(permuted(Tensors(x, y), seed=0, tasks=2)),
    }
    assert len(prints) == 5
    assert dataset_hash(split(Tensors(x.clone(), y), seed=0, classes_per_task=2)) in prints


def test_a_run_with_a_relative_path_resumes_from_any_directory(gr_run, gr_audit, interrupted, monkeypatch, tmp_path):
    home, elsewhere = tmp_path / "home", tmp_path / "elsewhere"
    for directory in (home, elsewhere):
        directory.mkdir()
    monkeypatch.chdir(home)
    folder(each=3)
    assert gr_run(*IMAGES, *FAST)[0] == 0
    expected = csvs(only_run())
    shutil.rmtree("outputs")
    interrupted(*IMAGES, *FAST)
    run = home / only_run()
    monkeypatch.chdir(elsewhere)
    for way in (str(run), os.path.relpath(run)):
        code, _, err = gr_run(f"resume={way}")
        assert code == 0, err
        assert csvs(run) == expected
    assert gr_run(f"verify={run}")[0] == 0 and gr_audit(run, "--raw-samples")[0] == 0
    assert Path.cwd() == elsewhere and not list(elsewhere.iterdir())


def test_relative_paths_start_here_if_the_first_directory_is_gone(gr_run, interrupted, monkeypatch, tmp_path):
    (tmp_path / "home").mkdir()
    monkeypatch.chdir(tmp_path / "home")
    folder(each=3)
    interrupted(*IMAGES, *FAST)
    monkeypatch.chdir(tmp_path)
    shutil.move("home", "moved")
    code, _, err = gr_run(f"resume=moved/{run_below('moved')}")
    assert code == 2 and f"benchmark.source.path=images: {tmp_path / 'images'} is not there; name a folder" in err
    monkeypatch.chdir("moved")
    assert gr_run(f"resume={only_run()}")[0] == 0


def run_below(home: str) -> Path:
    (status,) = Path(home).glob("outputs/*/*/*/status.json")
    return status.parent.relative_to(home)


def test_cached_images_that_changed_are_removed(gr_run):
    words = (*IMAGES, *FAST, "benchmark/features=conv_random", "benchmark.features.channels=[4]", "fresh=true")

    rooms = (("images", "*.bin"), ("features", "*.pt"))

    def kept() -> list[list[str]]:
        return [sorted(path.name for path in Path("cache", room).glob(files)) for room, files in rooms]

    folder(each=3)
    assert gr_run(*words)[0] == 0 and gr_run(*words, "benchmark.source.size=4")[0] == 0
    first = kept()
    assert [len(names) for names in first] == [2, 2]
    assert gr_run(*words)[0] == 0 and kept() == first
    put("images/train/cat/0.png", pixels(6, 5, 3))
    assert gr_run(*words)[0] == 0
    second = kept()
    assert [len(set(a) & set(b)) for a, b in zip(first, second, strict=True)] == [1, 1]
    assert [len(names) for names in second] == [2, 2]
    # The same folder by another path.
    Path("beside").mkdir()
    assert gr_run(*words, "benchmark.source.path=beside/../images")[0] == 0 and kept() == second
    # Another folder's are left alone, whatever they are called.
    Path("there").mkdir()
    shutil.copytree("images", "there/images")
    os.chdir("there")
    assert gr_run(*words, f"cache_root={Path('../cache').absolute()}")[0] == 0
    os.chdir("..")
    assert [set(a) < set(b) for a, b in zip(second, kept(), strict=True)] == [True, True]


def test_cached_features_of_in_memory_data_are_kept():
    features = ConvFeatureExtractor(channels=[4], weights="random", cache_root="cache")
    for _ in range(2):
        vectors_of(features, Tensors(torch.rand(8, 1, 4, 4), torch.arange(8) % 2, test_share=0.5).load())
    assert len(list(Path("cache/features").glob("*.pt"))) == 2


def test_status_has_the_directory_in_which_a_run_was_started(gr_run):
    assert gr_run(*FAST)[0] == 0
    assert json.loads((only_run() / "status.json").read_text())["directory"] == str(Path.cwd())
