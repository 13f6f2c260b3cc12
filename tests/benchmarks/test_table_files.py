"""Tables in CSV and Parquet files, data sets of scikit-learn, and time series."""

import gzip
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from gr_cli.benchmarks import SklearnSet, Table, Tensors
from gr_cli.benchmarks.sources import table_memory
from gr_cli.errors import ConfigError, DataError
from gr_cli.generators import VAE
from helpers.interruption import csvs, only_run

ROWS = [  # a number, a category, truth, a code of whole numbers, a label
    (1.5, "red", True, 7, "dog"),
    (2.5, "blue", False, 8, "dog"),
    (3.5, "red", True, 7, "cat"),
    (4.5, "green", False, 9, "cat"),
] * 5
FRAME = pd.DataFrame(ROWS, columns=["size", "colour", "tame", "code", "kind"])


def written(frame=FRAME, name="table.csv", **options):
    frame.to_csv(name, index=False, **options)
    return name


def loaded(path, **options):
    return Table(str(path), "kind", **({"standardise": False} | options)).load()


def samples(part):
    return torch.cat(list(part.raw_batches())).double()


# --- numbers and categories


def test_columns_become_numbers_and_one_hot_codes_by_their_type():
    data = loaded(written(), test_path=written(FRAME[:4], "test.csv"))
    names = ("size", "code", "colour=blue", "colour=green", "colour=red", "tame=False", "tame=True")
    assert (data.classes, data.spec.names, data.spec.categories) == (("cat", "dog"), names, (3, 2))
    assert data.spec.value_range is None and data.train.y.tolist() == [1, 1, 0, 0] * 5
    expected = [[1.5, 7, 0, 0, 1, 0, 1], [2.5, 8, 1, 0, 0, 1, 0], [3.5, 7, 0, 0, 1, 0, 1], [4.5, 9, 0, 1, 0, 1, 0]]
    assert samples(data.test).tolist() == expected


def test_numbers_can_be_categories_and_columns_be_left_out():
    data = loaded(written(), categories=["code"], ignore=["colour", "tame"])
    assert data.spec.names == ("size", "code=7", "code=8", "code=9") and data.spec.categories == (3,)
    data = loaded(written(), categories=["code", "size"], ignore=["colour", "tame"])
    assert data.spec.num_numeric == 0 and data.spec.categories == (4, 3)


def test_numbers_are_standardised_over_training_samples_and_codes_are_not():
    data = loaded(written(), test_path=written(FRAME[:4], "test.csv"), standardise=True)
    x = samples(data.train)
    assert torch.allclose(x[:, :2].mean(0), torch.zeros(2).double(), atol=1e-6)
    assert torch.allclose(x[:, :2].var(0, correction=0), torch.ones(2).double(), atol=1e-5)
    assert set(x[:, 2:].flatten().tolist()) == {0.0, 1.0}


@pytest.mark.parametrize("suffix", ["csv", "tsv", "csv.gz", "parquet"])
def test_all_formats_hold_the_same_samples(suffix):
    expected, path = loaded(written()), Path(f"again.{suffix}")
    if suffix == "parquet":
        pytest.importorskip("pyarrow")
        FRAME.to_parquet(path)
    else:
        text = FRAME.to_csv(index=False, sep="\t" if suffix == "tsv" else ",")
        path.write_bytes(gzip.compress(text.encode()) if suffix.endswith("gz") else text.encode())
    data = loaded(path)
    assert data.spec == expected.spec and data.classes == expected.classes
    assert torch.equal(samples(data.train), samples(expected.train))
    assert torch.equal(data.test.y, expected.test.y)


def test_parquet_of_nullable_and_categorical_types():
    pytest.importorskip("pyarrow")
    types = {"size": "Float64", "code": "Int64", "colour": "category", "tame": "boolean", "kind": "string"}
    frame = FRAME.astype(types)
    frame.loc[0, ["size", "colour", "tame"]] = pd.NA
    frame.to_parquet("typed.parquet")
    with pytest.raises(DataError, match=r"missing in size \(1\), colour \(1\), tame \(1\) of its 20 rows"):
        loaded("typed.parquet")
    assert "tame=missing" in loaded("typed.parquet", missing="mean").spec.names
    pd.DataFrame({"day": pd.to_datetime(["2026-01-01"] * 4), "kind": list("aabb")}).to_parquet("dates.parquet")
    with pytest.raises(DataError, match=r"column day is of type datetime64.*, and must hold numbers"):
        loaded("dates.parquet")


def test_a_separator_and_labels_of_numbers():
    frame = FRAME.assign(kind=[3, 3, -1, -1] * 5)
    with pytest.raises(ConfigError, match="kind: is no column; there are size;colour"):
        loaded(written(frame, sep=";"))
    assert loaded(written(frame, sep=";"), separator=";").classes == ("-1", "3")
    with pytest.raises(ConfigError, match="if its separator is no comma, set benchmark"):
        loaded("table.csv")
    for separator, typed in (("\t", "\\t"), ("  ", r"\s+")):
        text = FRAME.to_csv(index=False).replace(",", separator)
        Path("other.csv").write_text(text, encoding="utf-8")
        assert loaded("other.csv", separator=typed).spec == loaded(written()).spec


@pytest.mark.parametrize("suffix", ["csv", "csv.gz", "tsv"])
@pytest.mark.parametrize("names", [["size", "size"], ["kind", "kind"], ["size", "size.1", "size"]])
def test_columns_of_one_name_are_refused(names, suffix):
    frame = pd.DataFrame(np.arange(4 * len(names)).reshape(4, -1), columns=names).assign(other=1)
    frame.to_csv(f"t.{suffix}", index=False, sep="\t" if suffix == "tsv" else ",")
    with pytest.raises(DataError, match=f"has two columns named {names[0]}; rename one"):
        loaded(f"t.{suffix}", ignore=["size"])


def test_a_name_like_those_that_pandas_invents_is_a_column():
    frame = FRAME.assign(**{"size.1": FRAME["size"] + 1})
    assert {"size", "size.1"} <= set(loaded(written(frame)).spec.names)


@pytest.mark.parametrize("fields", ["9,", "9,9,"])
def test_rows_of_more_fields_than_names_are_refused(fields):
    header, *rows = FRAME.to_csv(index=False).splitlines()
    Path("t.csv").write_text("\n".join([header, *(fields + row for row in rows)]), encoding="utf-8")
    with pytest.raises(DataError, match="has rows of more fields than the header names"):
        loaded("t.csv")


@pytest.mark.parametrize(
    ("texts", "example"), [(["1.5", "?", "2", "3"], r"'\?'"), (["1,5", "2,5", "3", "0,1"], "'1,5'")]
)
def test_texts_that_are_numbers_for_the_most_part_are_refused(texts, example):
    frame = FRAME.assign(size=texts * 5)
    with pytest.raises(DataError, match=f"column size has numbers and texts, such as {example}"):
        loaded(written(frame))
    assert "size=3" in loaded(written(frame), categories=["size"]).spec.names
    assert len(loaded(written(frame.assign(size=["1", "2", "x", "y"] * 5))).spec.categories) == 3


@pytest.mark.parametrize("without", ["table.csv", "test.csv"])
def test_one_of_the_files_may_lack_a_column_that_is_ignored(without):
    for name in ("table.csv", "test.csv"):
        written(FRAME if name == without else FRAME.assign(row=range(20)), name)
    assert "row" not in loaded("table.csv", test_path="test.csv", ignore=["row"]).spec.names


def test_a_column_of_one_category_is_left_out_and_named(capsys):
    assert "tame=True" not in loaded(written(FRAME.assign(tame="yes"))).spec.names
    assert "column tame has one value alone, and is left out" in capsys.readouterr().err


# --- missing values


def with_gaps():
    frame = FRAME.astype({"tame": object})
    frame.loc[[0, 5], "size"] = np.nan
    frame.loc[[1, 2], "colour"] = None
    return written(frame)


def test_missing_values_are_refused_and_named():
    with pytest.raises(DataError, match=r"values are missing in size \(2\), colour \(2\) of its 20 rows"):
        loaded(with_gaps())


def test_rows_with_missing_values_are_dropped():
    data = loaded(with_gaps(), missing="drop")
    assert len(data.train) + len(data.test) == 16
    assert sorted(samples(data.train)[:, 0].tolist() + samples(data.test)[:, 0].tolist()) == sorted(
        FRAME["size"].drop([0, 1, 2, 5]).tolist()
    )


@pytest.mark.parametrize("rule", ["mean", "median"])
def test_numbers_are_filled_from_training_samples_alone(rule):
    rng = np.random.default_rng(0)
    train = pd.DataFrame({"a": rng.random(9), "kind": list("xyz") * 3})
    test = pd.DataFrame({"a": [1000.0, 2000.0, np.nan], "kind": list("xyz")})
    train.loc[4, "a"] = np.nan
    data = loaded(written(train), test_path=written(test, "test.csv"), missing=rule)
    fill = getattr(train["a"], rule)()
    assert samples(data.train)[4, 0].item() == pytest.approx(fill, rel=1e-6)
    assert samples(data.test)[2, 0].item() == pytest.approx(fill, rel=1e-6)


@pytest.mark.parametrize("seed", range(3))
def test_a_split_of_one_file_fills_from_its_training_rows(seed):
    frame = pd.DataFrame({"a": np.arange(40.0) ** 2, "kind": ["x", "y"] * 20})
    frame.loc[[6, 7], "a"] = np.nan
    data = loaded(written(frame), missing="mean", test_seed=seed)
    train, test = samples(data.train)[:, 0], samples(data.test)[:, 0]
    known = set(frame["a"].dropna())
    filled = [value for value in [*train.tolist(), *test.tolist()] if value not in known]
    original = [value for value in train.tolist() if value in known]
    assert filled == pytest.approx([np.mean(original)] * 2, rel=1e-6)


def test_missing_categories_are_a_category():
    data = loaded(with_gaps(), missing="median")
    assert data.spec.names[2:6] == ("colour=blue", "colour=green", "colour=missing", "colour=red")
    both = torch.cat([samples(data.train), samples(data.test)])
    assert both[:, 4].sum() == 2


# --- runs


def test_a_run_on_a_table_is_the_same_from_csv_and_parquet(gr_run):
    words = (
        "benchmark=table",
        "benchmark.classes_per_task=1",
        "benchmark.source.label=kind",
        "train.iterations=5",
        "threads=1",
    )
    assert gr_run(*words, f"benchmark.source.path={written()}")[0] == 0
    tables = csvs(only_run())
    assert {"sample_quality.csv", "accuracy_matrix.csv"} <= tables.keys()
    code, out, _ = gr_run(*words, f"benchmark.source.path={written()}", "inspect=true")
    assert code == 0 and "2 numbers and categories of 3, 2 values" in out
    assert gr_run(f"verify={only_run()}")[0] == 0


def test_a_changed_file_is_read_again():
    assert len(loaded(written()).train) == 16
    assert len(loaded(written(pd.concat([FRAME, FRAME]))).train) == 32


@pytest.mark.parametrize(
    ("name", "shape", "classes", "images"),
    [
        ("wine", (13,), 3, False),
        ("iris", (4,), 3, False),
        ("breast_cancer", (30,), 2, False),
        ("digits", (1, 8, 8), 10, True),
    ],
)
def test_data_sets_of_scikit_learn(name, shape, classes, images):
    pytest.importorskip("sklearn")
    data = SklearnSet(name, "nowhere").load()
    assert data.spec.shape == shape and len(data.classes) == classes and data.spec.is_image == images
    assert data.spec.value_range == ((0.0, 1.0) if images else None)
    assert data.classes[0] in ("class_0", "setosa", "benign", "0")
    assert images or data.spec.names


def test_time_series_keep_their_channels(gr_run, pictures):
    x, y = np.random.default_rng(0).normal(size=(24, 2, 9)).astype(np.float32), np.arange(24) % 4
    data, turned = (Tensors(a, y, layout=layout).load() for a, layout in ((x, "NCL"), (x.transpose(0, 2, 1), "NLC")))
    assert data.spec.shape == (2, 9) and not data.spec.is_image
    assert torch.equal(samples(data.train), samples(turned.train))
    assert VAE(data.spec, [8], 2).generate(3).shape == (3, 2, 9)
    np.savez("series.npz", x=x, y=y)
    words = ("benchmark=arrays", "benchmark.source.path=series.npz", "benchmark.source.layout=NCL", "threads=1")
    assert gr_run(*words, "train.iterations=3")[0] == 0
    assert list(Path("outputs").glob("arrays/*/*/figures/samples_task_0.png"))  # lines
    code, _, err = gr_run(*words, "model=cnn")
    assert code == 2 and "needs images" in err


# --- limits


@pytest.mark.parametrize("rows", [["1", str(2**64), "3"], ["1", "", str(2**63)], ["-9223372036854775809", "", "3"]])
def test_whole_numbers_beyond_64_bits_are_refused(rows):
    """pandas reads them as Python integers, floats among them, or texts."""
    Path("t.csv").write_text(
        "a,b,kind\n" + "".join(f"{a},1,{i % 2}\n" for i, a in enumerate(rows * 4)), encoding="utf-8"
    )
    with pytest.raises(DataError, match=r"column a has whole numbers beyond 64 bits, such as -?\d{19,20}; write"):
        loaded(Path("t.csv"), missing="mean")


def test_a_category_named_missing_is_not_mixed_with_missing_values():
    frame = pd.DataFrame({"a": range(8), "c": ["x", "missing"] * 4, "kind": list("pppqqqpq")})
    assert "c=missing" in loaded(written(frame), missing="mean").spec.names
    frame.loc[0, "c"] = None
    with pytest.raises(DataError, match=r"column c has missing values, and a category 'missing'"):
        loaded(written(frame), missing="mean")
    assert "c=missing" in loaded(written(frame), missing="drop").spec.names


def test_memory_is_estimated_from_the_first_rows(monkeypatch):
    rows = 5000
    names = ["p", "q"] * (rows // 2)
    frame = pd.DataFrame({"a": np.arange(rows) % 90 + 10, "c": list("uvwxy") * (rows // 5), "kind": names})
    path = written(frame)
    monkeypatch.setattr(table_memory, "_SMALL", 0)
    needed = 48 * rows * (1 + 5 + 2)
    monkeypatch.setattr(table_memory, "available_memory", lambda device: int(0.97 * needed))
    with pytest.raises(DataError, match=r"about 5,0\d\d rows of 8 columns with one-hot codes need 0.0 GiB"):
        loaded(path)
    monkeypatch.setattr(table_memory, "available_memory", lambda device: int(1.03 * needed))
    assert len(loaded(path).train.y) == 4000
