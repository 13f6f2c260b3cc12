"""Runs on memory-mapped data have the same tables as on data in memory, also resumed ones."""

import os
from pathlib import Path

import pytest

from helpers.image_files import folder
from helpers.interruption import csvs, only_run
from helpers.mapped_sets import write_arrays

ARRAYS = ("benchmark=arrays", "benchmark.source.path=x.npy", "benchmark.source.labels=y.npy")
FAST = ("train.iterations=8", "log.every=4", "model.hidden_sizes=[8]", "threads=1", "normalise=first_task")
WAYS = {
    "er": ("strategy=er", *FAST),
    "ewc with validation samples": ("strategy=ewc", "benchmark.validation_share=0.2", *FAST),
    "replay of features": (
        "strategy=generative_replay",
        "benchmark/features=conv_random",
        "benchmark.features.channels=[4]",
        *FAST,
    ),
    "joint": ("strategy=joint", *FAST),
    "float64": ("strategy=finetune", "precision=float64", *FAST),
}


def results(gr_run, name: str, *words: str) -> dict[str, bytes]:
    """The tables of a run in a folder of its own."""
    home = Path.cwd()
    Path(name).mkdir()
    for file in ("x.npy", "y.npy", "images"):
        if Path(file).exists():
            os.symlink(f"../{file}", f"{name}/{file}")
    os.chdir(name)
    code, _, err = gr_run(*words)
    assert code == 0, err
    tables = csvs(only_run())
    os.chdir(home)
    return tables


@pytest.mark.parametrize("way", WAYS)
def test_tables_are_those_of_data_in_memory(gr_run, way):
    write_arrays()
    memory, mapped = (results(gr_run, name, *ARRAYS, *WAYS[way], f"storage={name}") for name in ("memory", "mapped"))
    assert memory == mapped and memory
    runs = [next(Path(name).glob("outputs/*/*/*")).name for name in ("memory", "mapped")]
    assert runs[0] == runs[1]  # the same run, wherever its samples lie


def test_tables_of_image_folders(gr_run):
    folder(each=8)
    words = ("benchmark=image_folder", "benchmark.source.path=images", "benchmark.classes_per_task=1", "strategy=er")
    memory, mapped = (results(gr_run, name, *words, *FAST, f"storage={name}") for name in ("memory", "mapped"))
    assert memory == mapped and memory


def test_an_interrupted_run_resumes_from_either_storage(gr_run, interrupted):
    write_arrays()
    words = (*ARRAYS, "strategy=er", *FAST)
    expected = results(gr_run, "whole", *words, "storage=memory")
    interrupted(*words, "storage=mapped")
    assert gr_run(*words, "storage=memory")[0] == 0
    assert csvs(only_run()) == expected
    assert gr_run(f"verify={only_run()}")[0] == 0


def test_inspection_and_audit_read_mapped_samples(gr_run, gr_audit):
    write_arrays()
    words = (*ARRAYS, "strategy=er", *FAST, "storage=mapped")
    code, out, err = gr_run(*words, "inspect=true")
    assert code == 0 and "stored as uint8" in out, err
    assert gr_run(*words)[0] == 0
    assert gr_audit(only_run(), "--raw-samples")[0] in (0, 3)


def test_several_runs_as_one_program_share_a_map(gr_run):
    write_arrays()
    words = (*ARRAYS, "strategy=finetune", *FAST, "seed=0,1", "hydra/launcher=batched")
    tables = []
    for name in ("memory", "mapped"):
        Path(name).mkdir()
        for file in ("x.npy", "y.npy"):
            os.symlink(f"../{file}", f"{name}/{file}")
        os.chdir(name)
        assert gr_run("-m", *words, f"storage={name}")[0] == 0
        tables.append([csvs(run) for run in sorted(Path("outputs/arrays").glob("*/*"))])
        os.chdir("..")
    assert len(tables[0]) == 2 and tables[0] == tables[1]
