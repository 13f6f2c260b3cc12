"""Data sets in NumPy and torch files."""

import io
import os
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.sparse import csr_matrix, save_npz

from gr_cli.benchmarks import Arrays
from gr_cli.benchmarks.sources.load import load_dataset
from gr_cli.errors import DataError
from helpers.array_files import X, Y, write


class Hostile:
    def __reduce__(self):
        return os.mkdir, ("hacked",)


def bomb() -> bytes:
    """An archive whose array header declares a huge array."""
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<f8", "fortran_order": False, "shape": (1 << 50,)})
    whole = io.BytesIO()
    with zipfile.ZipFile(whole, "w") as archive:
        archive.writestr("x.npy", header.getvalue())
        archive.writestr("y.npy", header.getvalue())
    return whole.getvalue()


def hostile(name: str) -> None:
    if name == "objects.npz":
        np.savez(name, x=np.array([Hostile()] * 3, dtype=object), y=Y)
    elif name == "pickle.pt":
        torch.save({"x": Hostile(), "y": torch.from_numpy(Y)}, name)
    elif name == "bomb.npz":
        Path(name).write_bytes(bomb())
    elif name == "names.npz":
        np.savez(name, images=X, labels=Y)
    elif name in ("twice.npz", "both.npz"):
        np.savez(name, **{"x": X, "y": Y, {"twice.npz": "X", "both.npz": "x_train"}[name]: X})
    elif name == "sparse.npz":
        save_npz(name, csr_matrix(X[0]))
    elif name.startswith(("cut.", "flipped.")):
        np.savez(name, x=X, y=Y) if name.endswith("npz") else torch.save(
            {"x": torch.tensor(X), "y": torch.tensor(Y)}, name
        )
        content = bytearray(Path(name).read_bytes())
        content[content.index(X[:1].tobytes())] ^= 1
        Path(name).write_bytes(content if name.startswith("flipped") else content[: len(content) // 2])
    elif name == "weights.pt":
        torch.save(torch.nn.Linear(2, 2).state_dict(), name)
    elif name == "number.pt":
        torch.save(3, name)
    else:
        Path(name).write_bytes({"pickle.npz": pickle.dumps(Hostile()), "empty.npz": b""}.get(name, b"garbage"))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("objects.npz", "path=objects.npz: holds pickled objects, which are not read"),
        ("pickle.npz", "path=pickle.npz: is damaged, cut short, or of another format"),
        ("pickle.pt", "path=pickle.pt: holds pickled objects, which are not read"),
        ("garbage.npz", "path=garbage.npz: "),
        ("garbage.pt", "path=garbage.pt: "),
        ("empty.npz", "path=empty.npz: is empty; write it anew"),
        ("cut.npz", "path=cut.npz: is damaged, cut short, or of another format than its name says; write it anew"),
        ("cut.pt", "path=cut.pt: is damaged, cut short"),
        ("flipped.npz", "path=flipped.npz: is damaged, cut short"),
        ("flipped.pt", "path=flipped.pt: is damaged, cut short"),
        ("sparse.npz", "is a sparse matrix of SciPy, without labels"),
        ("twice.npz", "differ only in case (x, y, X)"),
        ("both.npz", "holds x and x_train, of which one must be for training"),
        ("bomb.npz", "bomb.npz"),
        ("names.npz", "holds images, labels, and no x_train; it must hold x and y, or x_train"),
        ("weights.pt", "holds weight, bias, and no x_train"),
        ("number.pt", "holds an object of type int"),
        ("nowhere.npz", "nowhere.npz: is not there; name a file that holds arrays"),
        ("table.csv", "must be a file .npz, .npy or .pt, or a folder with x.npy and y.npy"),
        ("x.npy", "benchmark.source.labels=null: must name the .npy file with the labels"),
    ],
)
def test_a_hostile_or_broken_file_is_one_line_and_runs_nothing(gr_run, name, message):
    if name != "nowhere.npz":
        hostile(name)
    code, _, line = gr_run("benchmark=arrays", f"benchmark.source.path={name}", "strategy=finetune")
    assert (code, line.count("\n")) == (2, 1), line
    assert message in line
    assert not Path("hacked").exists()


def test_no_path_is_one_line(gr_run):
    code, _, line = gr_run("benchmark=arrays")
    assert (code, line.count("\n")) == (2, 1)
    assert "benchmark.source.path=null: must be a file of arrays" in line


def test_a_file_that_changed_is_read_anew():
    settings = write("npz", {"x": X, "y": Y})
    first = load_dataset(Arrays(**settings))
    assert load_dataset(Arrays(**settings)) is first
    np.savez("set.npz", x=255 - X, y=Y)
    assert np.array_equal(load_dataset(Arrays(**settings)).train.store[:, 0], 255 - X)


def test_a_missing_or_damaged_file_of_labels_is_named_by_its_own_setting():
    write("pair", {"x": X, "y": Y})
    for name, fault in (
        ("nowhere.npy", "is not there"),
        ("folder", "is no file"),
        ("bad.npy", "is damaged, cut short"),
    ):
        Path("bad.npy").write_bytes(Path("folder/y.npy").read_bytes()[:-1])
        with pytest.raises(DataError, match=rf"^benchmark.source.labels={name}: {fault}"):
            load_dataset(Arrays("folder/x.npy", name))


def test_other_arrays_in_a_file_are_ignored_and_reported(capsys):
    np.savez("set.NPZ", x=X, y=Y, x_val=X, y_val=Y)
    os.rename("set.NPZ.npz", "set.NPZ")
    assert len(load_dataset(Arrays("set.NPZ")).classes) == 4
    assert "benchmark.source.path=set.NPZ: ignored: x_val, y_val\n" in capsys.readouterr().err


def test_a_file_of_the_same_size_and_time_is_read_anew():
    """Even within one tick of the file system clock."""
    settings = write("pair", {"x": X, "y": Y})
    start = os.path.getsize("folder/x.npy") - X.size
    for shade in range(10):
        with Path("folder/x.npy").open("r+b") as file:
            file.seek(start)
            file.write(bytes([shade] * 20))
        os.utime("folder/x.npy", ns=(0, 0))
        assert load_dataset(Arrays(**settings)).train.store[0].unique().tolist() == [shade]
