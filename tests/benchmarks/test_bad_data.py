"""Unsuitable data is refused in one line, before anything is computed."""

import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from gr_cli.benchmarks import Digits, Samples, permuted, split
from gr_cli.benchmarks.sources.base import Dataset
from gr_cli.benchmarks.sources.load import load_dataset
from gr_cli.errors import DataError
from gr_cli.nn.sample_spec import SampleSpec
from helpers import small_mnist
from helpers.bad_data import BROKEN, BROKEN_FILES, Given, NoSource, sound
from helpers.small_mnist import IMAGES, LABELS, PIXELS, idx

QUICK = ("strategy=finetune", "train.iterations=1", "threads=1")


def refused(gr_run, *words: str) -> str:
    """The one error line of a command that leaves no files."""
    code, _, err = gr_run(*words, *QUICK)
    assert code == 2, err
    assert err.startswith("gr-run: ")
    assert err.count("\n") == 1 and err.endswith("\n")
    assert not Path("outputs").exists()
    return err


# --- files


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    """The folder of a small MNIST whose root is `data`."""
    return small_mnist.write(tmp_path / "data")


MNIST = ("benchmark=split_mnist", "data_root=data", "download=false")


# Readable files that are not a valid data set.
BROKEN_SETS = {
    "black": (IMAGES, idx(40, 28, 28, values=bytes(len(PIXELS))), "all its 40 training samples are the same"),
    "two shapes": ("t10k-images-idx3-ubyte", idx(40, 14, 56, values=PIXELS), "its test samples (1, 14, 56)"),
    "too few labels": (LABELS, idx(30, values=bytes(30)), "it has 40 training samples, but 30 training labels"),
    "labels beyond 9": (LABELS, idx(40, values=bytes(i % 12 for i in range(40))), "0 to 9, its classes: 10, 11"),
    "no nines": (LABELS, idx(40, values=bytes(i % 9 for i in range(40))), "no training samples of class '9'"),
}


@pytest.mark.parametrize("fault", [*BROKEN_FILES, *BROKEN_SETS])
def test_damaged_file_is_one_line_with_file_and_remedy(gr_run, raw, fault):
    name, content, message = (BROKEN_FILES | BROKEN_SETS)[fault]
    (raw / name).write_bytes(content)
    line, root = refused(gr_run, *MNIST), raw.parents[1]
    where = f"gr-run: data_root={root}: MNIST"
    assert line.startswith(f"{where} can't be read there ({name} {message}" if fault in BROKEN_FILES else f"{where}: ")
    assert message in line
    assert f"; remove {root / 'MNIST'} to fetch it anew, or set data_root to" in line


def test_intact_files_train(gr_run, raw):
    assert gr_run(*MNIST, *QUICK)[0] == 0


def test_missing_file(gr_run, raw):
    (raw / LABELS).unlink()
    assert f"MNIST lacks {LABELS}; set data_root or GR_DATA_ROOT" in refused(gr_run, *MNIST)


@pytest.mark.parametrize("download", ["true", "false"])
def test_folder_instead_of_a_file(gr_run, raw, download):
    (raw / IMAGES).unlink()
    (raw / IMAGES).mkdir()
    assert f"{IMAGES} is a folder, not a file" in refused(gr_run, *MNIST, f"download={download}")


def test_unreadable_file_is_not_to_be_removed(gr_run, raw, monkeypatch):
    (raw / LABELS).chmod(0)
    if os.access(raw / LABELS, os.R_OK):  # as the superuser
        opened = Path.open

        def denied(path, *mode, **options):
            if path.name == LABELS:
                raise PermissionError(13, "Permission denied", str(path))
            return opened(path, *mode, **options)

        monkeypatch.setattr(Path, "open", denied)
    line = refused(gr_run, *MNIST)
    assert "Permission denied" in line and line.endswith("; check its permissions\n")


# --- sources that users write


class Mine:
    """A source as a user may write one."""

    def __init__(self, fault: str = "") -> None:
        self.fault = fault

    def load(self) -> Dataset:
        return BROKEN[self.fault][0]() if self.fault else sound()


def faulty_source(fault: str) -> tuple[str, ...]:
    return f"benchmark.source._target_={__name__}.Mine", f"+benchmark.source.fault={fault}"


@pytest.mark.parametrize("fault", BROKEN)
def test_invalid_data_of_a_users_source(gr_run, fault):
    line = refused(gr_run, *faulty_source(fault))
    assert line.startswith("gr-run: benchmark.source=Mine: ")
    assert BROKEN[fault][1] in line
    assert "; correct its load()" in line or "check that the file exists" in line
    assert list(Path().iterdir()) == []


def test_users_source_trains(gr_run):
    assert gr_run(f"benchmark.source._target_={__name__}.Mine", *QUICK)[0] == 0


def test_permuted_stream_refuses_invalid_data_and_vectors(gr_run):
    words = ("benchmark=permuted_mnist", "~benchmark.source.name")
    assert "training samples hold NaN" in refused(gr_run, *words, *faulty_source("'not a number'"))
    data = sound()
    flat = replace(data.train, store=data.train.store.flatten(1))
    with pytest.raises(DataError, match=r"need images \(C, H, W\), not samples of shape \(16,\)"):
        permuted(Given(replace(data, train=flat, test=flat, spec=SampleSpec((16,)))), seed=0)


def test_object_without_load_is_refused(gr_run):
    line = refused(gr_run, f"benchmark.source._target_={__name__}.NoSource")
    assert f"benchmark.source={__name__}.NoSource: must be a Source" in line
    with pytest.raises(DataError, match=r"benchmark.source=NoSource: has no load\(\)"):
        load_dataset(NoSource())


def test_unusual_but_valid_data_is_accepted():
    data = sound()
    x = data.train.store.clone()
    for change in (
        x.double(),
        x.half(),
        (255 * x).to(torch.uint8),
        torch.cat([x, torch.zeros(20, 1, 4, 4)], 1),  # a channel that never changes
        x.flatten(1),
    ):
        part = replace(data.train, store=change)
        load_dataset(Given(replace(data, train=part, test=part, spec=SampleSpec(tuple(change.shape[1:])))))
    # Two splits of one store, with NaN in an unused row; unbounded values.
    store = torch.cat([1000 * x, torch.full((1, 1, 4, 4), float("nan"))])
    part = Samples(store, data.train.y, index=torch.arange(20))
    load_dataset(Given(Dataset(part, part, data.classes, SampleSpec(tuple(part.store.shape[1:]), None))))


def test_problem_at_the_end_of_a_large_set_is_found():
    x, y = torch.zeros(2500, 3), torch.arange(2500) % 4
    x[2400, 1] = 1.0
    data = Dataset(Samples(x, y), sound().test, tuple("abcd"), SampleSpec((3,)))
    data = replace(data, test=data.train)
    load_dataset(Given(data))
    x[2400, 1] = 0.0
    with pytest.raises(DataError, match="all its 2500 training samples are the same"):
        load_dataset(Given(replace(data)))
    x[2499, 2] = float("nan")
    with pytest.raises(DataError, match="1 of its 2500 training samples hold NaN or infinity, the first at index 2499"):
        load_dataset(Given(replace(data)))


def test_data_set_is_validated_once(monkeypatch):
    validated = []
    monkeypatch.setattr("gr_cli.benchmarks.sources.load.validate", lambda data, *_: validated.append(data) or data)
    source = Given(sound())
    for seed in range(3):
        split(source, seed)
    assert len(validated) == 1


def test_validation_leaves_training_samples_of_every_class():
    source = sound()
    with pytest.raises(DataError, match=r"validation_share=0\.95: leaves .* training some of each class"):
        split(Given(source), seed=0, validation_share=0.95)
    digits = split(Digits(), seed=0, validation_share=0.95)
    assert all(len(task.train.y.unique()) == 2 for task in digits.tasks)
