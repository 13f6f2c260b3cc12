"""Messages about tables in files, and about data sets of scikit-learn."""

from pathlib import Path

import pandas as pd

from helpers.situations import Hands, Situation, Table, failing

# Two numbers, a category and a label; eight rows of two classes.
HEADER, ROWS = "a,b,c,y", [f"{i}.5,{i % 3},{'xz'[i % 2]},{'pq'[i // 4]}" for i in range(8)]
TEXT = "\n".join([HEADER, *ROWS])
WITHOUT_VALUES = "\n".join(["d," + HEADER, *("," + row for row in ROWS)])  # in its first column


def table(text: str = TEXT, *words: str, test: str | None = None) -> Situation:
    """Call `gr-run` on a CSV file, and on another one for testing."""

    def do(hands: Hands) -> object:
        Path("t.csv").write_text(text, encoding="utf-8")
        tested = ()
        if test is not None:
            Path("test.csv").write_text(test, encoding="utf-8")
            tested = ("benchmark.source.test_path=test.csv",)
        source = ("benchmark=table", "benchmark.source.path=t.csv", "benchmark.source.label=y")
        return hands.gr_run(*source, *tested, "train.iterations=2", "strategy=finetune", *words)

    return do


def with_row(row: str) -> str:
    return f"{TEXT}\n{row}"


def without(library: str, *words: str) -> Situation:
    """A command that needs a library that is not installed."""

    def do(hands: Hands) -> object:
        Path("t.parquet").write_bytes(b"PAR1")
        module = "sklearn_sets" if library == "sklearn" else "table"
        hands.monkeypatch.setattr(f"gr_cli.benchmarks.sources.{module}.find_spec", lambda name: None)
        return hands.gr_run(*words)

    return do


def without_memory(hands: Hands) -> object:
    hands.monkeypatch.setattr(pd, "read_csv", failing(MemoryError()))
    return table()(hands)


def without_free_memory(hands: Hands) -> object:
    hands.monkeypatch.setattr("gr_cli.benchmarks.sources.table_memory._SMALL", 0)
    hands.monkeypatch.setattr("gr_cli.benchmarks.sources.table_memory.available_memory", lambda device: 100)
    return table()(hands)


def of_complex_numbers(hands: Hands) -> object:
    """CSV files hold no complex numbers, dates or objects; Parquet files do."""
    frame = pd.DataFrame({"a": [1j] * 8, "y": list("ppppqqqq")})
    hands.monkeypatch.setattr(pd, "read_csv", lambda *_, **__: frame)
    return table()(hands)


def not_downloaded(hands: Hands) -> object:
    from gr_cli.benchmarks.sources import sklearn_sets

    def bunch(*arguments: object) -> object:
        hands.monkeypatch.setattr("sklearn.datasets.fetch_covtype", failing(OSError("no network")))
        return original(*arguments)

    original = sklearn_sets._bunch
    hands.monkeypatch.setattr(sklearn_sets, "_bunch", bunch)
    return hands.gr_run("benchmark=sklearn", "benchmark.source.name=covtype", "data_root=nowhere", "download=false")


TABLES: Table = {
    "benchmarks/sources/table_memory.py": [("GiB are free; write its numbers to .npy files", without_free_memory)],
    "benchmarks/sources/table_texts.py": [
        ("has whole numbers beyond 64 bits", table(TEXT.replace("0.5", str(2**70)).replace(".5", ""))),
        ("has numbers and texts, such as", table(TEXT.replace("0.5", "?"))),
    ],
    "benchmarks/sources/table.py": [
        ("has missing values, and a category {}, as",
         table(with_row("1,2,missing,p\n1,2,,p"), "benchmark.source.missing=mean")),
        ("must name {}; set", lambda hands: hands.gr_run("benchmark=table", "benchmark.source.path=t.csv")),
        ("must be one character", table(TEXT, "benchmark.source.separator=ab")),
        ("has two columns named", table(TEXT.replace("a,b", "a,a"))),
        ("has rows of more fields", table(TEXT.replace(HEADER, "b,c,y"))),
        ("must be a file .csv, .tsv or .parquet", table(TEXT, "benchmark.source.path=t.xlsx")),
        ("name a file with a table", table(TEXT, "benchmark.source.path=nowhere.csv")),
        ("is read by pyarrow", without("pyarrow", "benchmark=table", "benchmark.source.path=t.parquet",
                                       "benchmark.source.label=y")),
        ("holds more than there is memory for", without_memory),
        ("can't be read as a table", table(with_row("1,2,3,4,5,6"))),
        ("is no column", table(TEXT, "benchmark.source.ignore=[d]")),
        ("is named twice", table(TEXT, "benchmark.source.ignore=[c]", "benchmark.source.categories=[c]")),
        ("has other columns than the training table", table(test=TEXT.replace("a,b", "a,d"))),
        ("has a column without a name", table(TEXT.replace("a,b", ",b"))),
        ("has no columns besides the label", table("y\n1\n2")),
        ("is of type {}, and must hold", of_complex_numbers),
        ("different values, and is no category",
         table("\n".join([HEADER, *(f"1,2,text {i},{'pq'[i % 2]}" for i in range(1001))]))),
        ("labels are missing", table(with_row("1,2,x,"))),
        ("values are missing in", table(with_row("1,,x,p"))),
        ("has no {}; add some", table(HEADER)),
        ("holds numbers in one table, and texts in the other", table(test=TEXT.replace(".5,", "x,"))),
        ("has no value", table(WITHOUT_VALUES, "benchmark.source.missing=mean")),
        ("and a category of that name", table(TEXT.replace("a,b", "c=x,b"))),
    ],
    "benchmarks/sources/sklearn_sets.py": [
        ("scikit-learn is not installed", without("sklearn", "benchmark=sklearn")),
        ("is not in {} ({})", not_downloaded),
    ],
}  # fmt: skip
