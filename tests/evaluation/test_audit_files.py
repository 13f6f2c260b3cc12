"""`gr-audit <folder> --raw-samples` finds samples in files of any format; unreadable files are listed."""

import base64
import bz2
import gzip
import io
import json
import lzma
import os
import pickle
import shutil
import sqlite3
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from contextlib import chdir, closing
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from gr_cli.benchmarks import Digits
from gr_cli.evaluation.audit import AuditResult, audit
from gr_cli.evaluation.audit_files import FolderReader
from gr_cli.evaluation.audit_layouts import SearchTarget
from gr_cli.evaluation.audit_match import NumberSequence
from gr_cli.evaluation.audit_search import find_samples
from gr_cli.nn.sample_spec import SampleSpec
from gr_cli.results.figures import draw_sample_sheet
from helpers.audits import run_that_stores_nothing

Images = NDArray[np.float32]
EACH = 4  # samples in each file


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished run that stores no samples."""
    return run_that_stores_nothing(tmp_path_factory.mktemp("finished"))


@pytest.fixture
def folder(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "copy"))


# --- forms: transformations of samples x (n, 1, 8, 8) in [0, 1]


def pixels(x: Images) -> NDArray[np.uint8]:
    return (x * 255).round().astype(np.uint8)


def padded(x: Images, before: int, after: int) -> Images:
    return np.pad(x, ((0, 0), (0, 0), (before, after), (before, after)))


def grid(x: Images) -> Images:
    """Two rows of images with a gap of two."""
    cells = np.pad(x[:, 0], ((0, 0), (2, 0), (2, 0)))
    return cells.reshape(2, len(x) // 2, *cells.shape[1:]).transpose(0, 2, 1, 3).reshape(2 * cells.shape[1], -1)


FORMS: dict[str, Callable[[Images], object]] = {
    "padded": lambda x: padded(x, 1, 1),
    "padded_and_flat": lambda x: padded(x, 1, 1).ravel(),
    "padded_on_two_sides": lambda x: padded(x, 0, 3).ravel(),
    "padded_to_32": lambda x: padded(x, 12, 12),
    "offset": lambda x: np.concatenate([np.array([0.3, 0.1, 0.7]), x.ravel()]),
    "cropped": lambda x: x[:, :, 1:, 1:-1],
    "cropped_and_flat": lambda x: x[:, :, 1:-1, 1:-1].ravel(),
    "shifted": lambda x: np.roll(x, 1, 3),
    "upper_and_lower_halves": lambda x: [x[:, :, :4], x[:, :, 4:]],
    "left_and_right_halves": lambda x: [x[..., :4].ravel(), x[..., 4:].ravel()],
    "quarters": lambda x: [x[:, :, i : i + 4, j : j + 4] for i in (0, 4) for j in (0, 4)],
    "quarters_by_columns": lambda x: [x[..., i : i + 2] for i in (0, 2, 4, 6)],
    "each_row_alone": lambda x: list(x.reshape(-1, 8)),
    "inverted": lambda x: 1 - x,
    "normalised": lambda x: (x - x.mean((2, 3), keepdims=True)) / x.std((2, 3), keepdims=True),
    "in_other_units": lambda x: x * 1e-3 + 1e3,
    "quantised": lambda x: np.round((x - 0.5) * 250).astype(np.int8),
    "rounded": lambda x: x.round(2),
    "transposed": lambda x: x.transpose(0, 1, 3, 2),
    "flipped": lambda x: x[..., ::-1],
    "upside_down": lambda x: x[:, :, ::-1],
    "turned": lambda x: np.rot90(x, 1, (2, 3)),
    "turned_twice": lambda x: np.rot90(x, 2, (2, 3)),
    "as_columns": lambda x: x.reshape(len(x), -1).T,
    "enlarged": lambda x: x.repeat(3, 2).repeat(3, 3),
    "in_a_grid": grid,
    "with_other_numbers": lambda x: np.concatenate([x.reshape(len(x), -1), np.arange(len(x))[:, None]], 1),
    "as_three_channels": lambda x: np.repeat(x.transpose(0, 2, 3, 1), 3, 3),
}


# --- file formats


def tensors(x: Images) -> bytes:
    stream = io.BytesIO()
    torch.save({"kept": torch.from_numpy(x)}, stream)
    return stream.getvalue()


def beside_tensors(member: str, content: bytes) -> bytes:
    """A torch file with an additional member in its archive."""
    stream = io.BytesIO(tensors(np.zeros((1, 1, 2, 2), np.float32)))
    with zipfile.ZipFile(stream, "a") as file:
        file.writestr(f"archive/{member}", content)
    return stream.getvalue()


def old_tensors(x: Images) -> bytes:
    stream = io.BytesIO()
    torch.save({"kept": torch.from_numpy(x)}, stream, _use_new_zipfile_serialization=False)
    return stream.getvalue()


def array(x: Images) -> bytes:
    stream = io.BytesIO()
    np.save(stream, x)
    return stream.getvalue()


def arrays(x: Images) -> bytes:
    stream = io.BytesIO()
    np.savez_compressed(stream, x=x, names=np.array(["a", "b"]))
    return stream.getvalue()


def archive(*members: tuple[str, bytes]) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as file:
        for name, content in members:
            file.writestr(name, content)
    return stream.getvalue()


def tape(content: bytes) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as file:
        member = tarfile.TarInfo("inner")
        member.size = len(content)
        file.addfile(member, io.BytesIO(content))
    return stream.getvalue()


def image(x: Images, form: str = "PNG", scale: int = 1, mode: str = "L") -> bytes:
    stream, picture = io.BytesIO(), Image.fromarray(pixels(grid(x).repeat(scale, 0).repeat(scale, 1))).convert(mode)
    picture.save(stream, form)
    return stream.getvalue()


def events(content: bytes) -> bytes:
    """A TensorBoard record; its checksums are not verified."""
    return struct.pack("<QI", len(content) + 20, 0) + b"\x0a\x12\x08tag" + bytes(14) + content + bytes(4)


def database(x: Images) -> bytes:
    with closing(sqlite3.connect(":memory:")) as file:
        file.execute("create table kept (id integer, value blob)")
        file.executemany("insert into kept values (?, ?)", enumerate(row.tobytes() for row in x))
        file.commit()
        return file.serialize()


def drawn(x: Images) -> bytes:
    path = Path("drawn.png")
    draw_sample_sheet(SampleSpec(x.shape[1:]).preview(torch.from_numpy(x)), "drawn", path, columns=2)
    return path.read_bytes()


def raw(kind: str, before: int = 0) -> Callable[[Images], bytes]:
    return lambda x: b"\xff" * before + (pixels(x) if kind[1] in "ui" else x).astype(kind).tobytes() + b"\x80" * 9


def bfloat16(x: Images) -> bytes:
    return b"odd" + torch.from_numpy(x).bfloat16().view(torch.int16).numpy().tobytes()


FILES: dict[str, Callable[[Images], bytes]] = {
    "tensors.pth": tensors,
    "tensors.PT": tensors,
    "tensors.bin": tensors,
    "without_a_suffix": tensors,
    ".hidden/tensors": tensors,
    "old.pt": old_tensors,
    "beside.pt": lambda x: beside_tensors("extra/samples.npy", array(x)),
    "unused.pt": lambda x: beside_tensors("data/77", x.tobytes()),
    "array.npy": lambda x: array(x),
    "big_endian.npy": lambda x: array(x.astype(">f8")),
    "objects.npy": lambda x: array(np.array([*x, None], dtype=object)[:-1]),
    "bytes_of_floats.npy": lambda x: array(np.frombuffer(x.tobytes(), np.uint8)),
    "records.npy": lambda x: array(np.array(list(enumerate(x)), [("i", "i4"), ("x", "f4", (1, 8, 8))])),
    "arrays.npz": arrays,
    "bytes.bin": raw("|u1"),
    "floats.bin": raw("<f4"),
    "floats_at_an_odd_place.bin": raw("<f4", 3),
    "doubles.bin": raw("<f8", 5),
    "doubles_of_the_other_end.bin": raw(">f8", 1),
    "floats_of_the_other_end.bin": raw(">f4"),
    "halves.bin": raw("<f2", 1),
    "whole_numbers.bin": raw("<i4", 2),
    "bfloat16.bin": bfloat16,
    "tensors.zip": lambda x: archive(("readme.txt", b"nothing here but a text"), ("a/b.npy", array(x))),
    "within.zip": lambda x: archive(("inner.zip", archive(("x.bin", x.tobytes())))),
    "behind.zip": lambda x: archive(("readme.txt", b"nothing")) + bytes(2000) + x.tobytes(),
    "array.npy.gz": lambda x: gzip.compress(array(x)),
    "bytes.xz": lambda x: lzma.compress(pixels(x).tobytes()),
    "bytes.bz2": lambda x: bz2.compress(pixels(x).tobytes()),
    "array.tar": lambda x: tape(array(x)),
    "arrays.pkl": lambda x: pickle.dumps({"kept": [x]}),
    "old.pkl": lambda x: pickle.dumps({"kept": x}, protocol=2),
    "numbers.pkl": lambda x: pickle.dumps(x.tolist()),
    "numbers.json": lambda x: json.dumps({"kept": [{"x": row.tolist()} for row in x]}).encode(),
    "numbers.csv": lambda x: "\n".join(
        f"{i}," + ",".join(f"{v:.3f}" for v in row.ravel()) for i, row in enumerate(x)
    ).encode(),
    "columns.txt": lambda x: "\n".join(" ".join(map(str, row)) for row in x.reshape(len(x), -1).T.tolist()).encode(),
    "utf16.txt": lambda x: " ".join(map(str, x.ravel().tolist())).encode("utf-16"),
    "base64.json": lambda x: json.dumps({"kept": base64.b64encode(pixels(x).tobytes()).decode()}).encode(),
    "digits_of_16.txt": lambda x: pixels(x).tobytes().hex().encode(),
    "wandb/kept.yaml": lambda x: "\n".join(f"- {v}" for v in x.ravel().tolist()).encode(),
    "page.html": lambda x: b'<img src="data:image/png;base64,' + base64.b64encode(image(x)) + b'">',
    "figures/grid.png": image,
    "figures/grid.gif": lambda x: image(x, "GIF"),
    "figures/grid.tiff": lambda x: image(x, "TIFF"),
    "figures/grid.bmp": lambda x: image(x, "BMP"),
    "figures/enlarged.png": lambda x: image(x, scale=5),
    "figures/colours.png": lambda x: image(x, scale=7, mode="RGB"),
    "figures/drawn.png": drawn,
    "figures/behind.png": lambda x: image(np.zeros_like(x)) + pixels(x).tobytes(),
    "events.out.tfevents.1.host": lambda x: events(image(x)),
    "mlflow.db": database,
}


@pytest.fixture(scope="module")
def x() -> Images:
    """Training samples (N, 1, 8, 8) in [0, 1]."""
    train = Digits().load().train
    return train.batch(torch.arange(len(train)))[0].numpy()


@pytest.fixture(scope="module")
def planted(finished: Path, x: Images, tmp_path_factory: pytest.TempPathFactory) -> tuple[AuditResult, dict[str, int]]:
    """Audit of a run folder that contains other samples in each form and each file format."""
    folder = Path(shutil.copytree(finished, tmp_path_factory.mktemp("planted") / "run"))
    first = {name: i * EACH for i, name in enumerate([*FORMS, *FILES])}
    with chdir(folder.parent):
        for name, start in first.items():
            those = np.ascontiguousarray(x[start : start + EACH])
            path = folder / (name if name in FILES else f"forms/{name}.pt")
            path.parent.mkdir(exist_ok=True, parents=True)
            if name in FILES:
                path.write_bytes(FILES[name](those))
            else:
                changed = FORMS[name](those)
                several = changed if isinstance(changed, list) else [changed]
                torch.save([torch.from_numpy(np.ascontiguousarray(value)) for value in several], path)
    return audit(folder), first


@pytest.mark.parametrize("name", [*FORMS, *FILES])
def test_samples_are_found_in_every_form_and_file(planted, name):
    result, _ = planted
    file = name if name in FILES else f"forms/{name}.pt"
    assert any(place == file or place.startswith(f"{file}: ") for place in result.locations)


def test_exactly_the_planted_samples_are_found(planted):
    result, first = planted
    assert result.num_retained == EACH * len(first) and result.violated and not result.unread


# --- what can't be read


def unread(folder: Path, gr_audit) -> set[str]:
    """The unreadable locations that an audit of an otherwise intact folder lists; it exits with 3 if there are any."""
    code, out, err = gr_audit(folder, "--raw-samples")
    names = {line.split(": ")[1] for line in out.splitlines() if line.startswith("not read: ")}
    assert code == (3 if names else 0), out + err
    assert ("of its parts could not be read" in err) == bool(names) and err.count("\n") == bool(names)
    return names


def test_unreadable_files_are_listed_and_exit_with_3(folder, gr_audit, x):
    assert unread(folder, gr_audit) == set()
    whole = archive(("x.npy", array(np.zeros(5000, np.float32))), ("y.bin", os.urandom(3000)))
    (folder / "cut.zip").write_bytes(whole[:-500])
    (folder / "empty.pt").write_bytes(b"")
    (folder / "text.png").write_bytes(b"this is no image at all")
    (folder / "cut.png").write_bytes(image(x[:40])[:300])
    (folder / "cut.gz").write_bytes(gzip.compress(os.urandom(500))[:-100])
    (folder / ".checkpoint.pt.12.tmp").write_bytes(b"half of it")
    assert unread(folder, gr_audit) == {"cut.zip", "empty.pt", "text.png", "cut.png", "cut.gz", ".checkpoint.pt.12.tmp"}


def test_found_samples_outrank_unreadable_files(folder, gr_audit, x):
    (folder / "broken.npz").write_bytes(b"broken")
    np.save(folder / "kept.npy", x[:3])
    code, out, err = gr_audit(folder, "--raw-samples")
    assert code == 1 and "not read: broken.npz: " in out and "3 training samples were found, in kept.npy" in err


def test_pipes_links_and_large_files_are_listed_without_blocking(folder, gr_audit, tmp_path):
    os.mkfifo(folder / "pipe.pt")
    (tmp_path / "outside").mkdir()
    (folder / "out").symlink_to(tmp_path / "outside")
    (folder / "device").symlink_to("/dev/zero")
    (folder / "ring").symlink_to("ring")
    (folder / "inside").symlink_to("figures")
    with (folder / "sparse.bin").open("wb") as file:
        file.truncate(1 << 40)
    assert unread(folder, gr_audit) == {"pipe.pt", "out", "device", "sparse.bin"}


class Harm:
    """Creates a file when it is unpickled."""

    def __reduce__(self) -> tuple[object, ...]:
        return os.system, ("touch harmed",)


def test_hostile_files_are_bounded_and_never_executed(folder, gr_audit, monkeypatch):
    monkeypatch.setattr("gr_cli.evaluation.audit_formats.MAX_BYTES", 1 << 22)
    nested: object = []
    for _ in range(60):
        nested = [nested, nested]  # 2^60 lists, one by one
    for name, value in (("harm.pkl", Harm()), ("nested.pkl", nested)):
        (folder / name).write_bytes(pickle.dumps(value))
    torch.save(nested, folder / "nested.pt")
    torch.save({"x": torch.zeros(1).expand(1 << 40)}, folder / "repeated.pt")
    (folder / "bomb.gz").write_bytes(gzip.compress(bytes(1 << 23)))
    (folder / "bomb.zip").write_bytes(archive(("a", bytes(1 << 23))))
    deep = b"a text at the bottom"
    for _ in range(9):
        deep = gzip.compress(deep)
    (folder / "deep.gz").write_bytes(deep)
    head = struct.pack(">IIBBBBB", 60000, 60000, 8, 2, 0, 0, 0)
    chunk = b"IHDR" + head
    (folder / "wide.png").write_bytes(
        b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + chunk + struct.pack(">I", zlib.crc32(chunk)) + bytes(20)
    )
    assert unread(folder, gr_audit) == {"bomb.gz", "bomb.zip", "deep.gz", "wide.png"}
    assert not Path("harmed").exists()


def test_bytes_that_resemble_formats_are_read_as_bytes(folder, gr_audit):
    for number, head in enumerate((b"P1 is a text", b"BM is one, too, ", b"x\x9c", b"\x80\x04", b"II*\0")):
        (folder / f"file{number}").write_bytes(head + bytes(range(200)))
    assert unread(folder, gr_audit) == set()


def test_locations_are_printable(tmp_path):
    (tmp_path / "a\x1b[31m.npz").write_bytes(b"broken file")
    reader = FolderReader(tmp_path)
    list(reader.arrays())
    assert list(reader.unread) == ["a?[31m.npz"]


def test_lines_and_letters_of_a_figure_are_not_samples():
    """A thin 1 of a data set resembles the strokes of letters, whose parts are straight lines."""
    ones = np.zeros((6, 1, 28, 28), np.float32)
    for i, one in enumerate(ones[:, 0]):
        one[4:24, 12 + i % 3 : 15 + i % 3] = np.array([0.4, 1.0, 0.2 + 0.1 * i])
        one[4], one[23] = one[4] * 0.5, one[23] * 0.3
    figure = np.full((120, 200), 255.0, np.float32)
    figure[10:100, 40:43] = 255 - 255 * ones[0, 0, 10, 12:15]
    figure[30:60, 80:83] = 255 - 255 * ones[3, 0, 10, 12:15]
    target = SearchTarget(np.arange(len(ones)), (1, 28, 28), lambda labels: ones[labels])
    assert not list(find_samples([target], [NumberSequence(figure.ravel(), ("figure",), strides=(200,), exact=True)]))
    figure[50:78, 150:178] = 200 - 100 * ones[2, 0]
    (match,) = find_samples([target], [NumberSequence(figure.ravel(), ("figure",), strides=(200,), exact=True)])
    assert match.label == 2 and match.values is None
