"""`gr-audit <folder> --raw-samples` finds training samples in any form, and nothing else."""

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import gr_cli
from gr_cli.benchmarks import Benchmark, Digits, Samples, Task
from gr_cli.benchmarks.sources.base import Dataset
from gr_cli.config.instantiate import import_target
from gr_cli.evaluation.audit import audit
from gr_cli.nn.sample_spec import SampleSpec
from gr_cli.results.stored_config import stored_settings
from gr_cli.system.checksums import save_tensors
from helpers.audits import add, of_task, run_that_stores_nothing
from helpers.interruption import StopAt, only_run
from helpers.small_networks import small_networks

CONF = Path(gr_cli.__file__).parent.parent / "conf"
STRATEGIES = sorted(path.stem for path in (CONF / "strategy").glob("*.yaml"))
PERMUTED = (
    "benchmark=permuted_mnist",
    "benchmark.source._target_=gr_cli.benchmarks.Digits",
    "~benchmark.source.name",
    "benchmark.tasks=3",
    "scenario=domain",
)
TINY = ("train.iterations=3", "threads=1", "evaluate.generated_samples=0")


@pytest.fixture(autouse=True, scope="module")
def _few():
    """Use the first 600 digits only, because the time of an audit grows with the samples."""
    load = Digits.load

    def first(source: Digits) -> Dataset:
        data = load(source)
        return replace(data, train=data.train.select(torch.arange(600)))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Digits, "load", first)
        yield


@pytest.fixture
def run(gr_run):
    """A short run of small networks, and its folder; large checkpoints take long to search."""

    def call(*words: str, code: int = 0) -> Path:
        exit_code, _, err = gr_run(*small_networks(*words), *words, *TINY)
        assert exit_code == code, err
        (status,) = Path("outputs").glob("*/*/*/status.json")
        return status.parent

    return call


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The folder of a finished run that stores no samples."""
    return run_that_stores_nothing(tmp_path_factory.mktemp("finished"))


@pytest.fixture
def smuggle(finished):
    """The folder of a run that stores no samples, with `value` added to its checkpoint."""

    def call(value) -> Path:
        folder = Path(shutil.copytree(finished, "outputs/split_digits/finetune/copy"))
        add(folder, value)
        return folder

    return call


def counts(folder: Path) -> list[int]:
    return [task.samples for task in audit(folder).tasks]


# --- what strategies store


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_every_strategy_stores_what_it_claims(run, gr_audit, strategy):
    folder = run(f"strategy={strategy}")
    code, out, err = gr_audit(folder, "--raw-samples")
    assert (code, err) == (0, "")
    *lines, verdict = [line for line in out.splitlines() if not line.startswith("traces of ")]
    assert [line.partition(":")[0] for line in lines] == [f"task {i}" for i in range(5)]
    samples = [int(line.partition(": ")[2]) for line in lines]
    stores = json.loads((folder / "status.json").read_text())["stores_raw_samples"]
    sees = import_target(stored_settings(folder).config["strategy"]["_target_"], "strategy").training_data
    if not stores:
        assert samples == [0] * 5 and verdict == "stores_raw_samples: false, and none was found"
    elif sees == "current":
        assert min(samples) > 0 and verdict.startswith(
            f"stores raw samples, as claimed: {sum(samples)} in checkpoint.pt: "
        )
    else:  # it trains again on samples of the benchmark
        assert samples == [0] * 5 and verdict == "stores_raw_samples: true, and none was found"


def test_exact_second_moments_hold_a_sample_that_alone_has_a_pixel(run):
    """Its row of the matrix is a multiple of the sample, and the run says that it stores samples."""
    folder = run("strategy=slda", "strategy.arithmetic=fixed_point", "strategy.keep=class")
    assert json.loads((folder / "status.json").read_text(encoding="utf-8"))["stores_raw_samples"] is True


@pytest.mark.parametrize(
    "words",
    [
        ("strategy=slda", "strategy.keep=class"),
        ("strategy=slda", "strategy.keep=total"),
        ("strategy=generative_classifier", "generator=gaussian", "generator.latent_dim=null"),
    ],
)
def test_second_moments_hold_no_sample(run, words):
    assert counts(run(*words)) == [0] * 5


@pytest.mark.parametrize(
    ("words", "each"),
    [
        (("strategy=er", "strategy.per_class=7"), 2 * 7),
        (("strategy=a_gem", "strategy.per_class=30"), 2 * 30),
        (("strategy=icarl", "strategy.per_class=5"), 2 * 5),
        (("strategy=icarl", "strategy.budget=40"), 2 * 40 // 10),
        (("strategy=er_plus",), 3 * 32),  # all samples so far, fewer than the memory size
    ],
)
def test_audit_finds_as_many_samples_as_a_strategy_stores(run, words, each):
    assert counts(run(*words)) == [each] * 5


def test_audit_finds_the_contents_of_a_reservoir(run):
    folder = run("strategy=er_plus", "strategy.memory_size=50", "train.iterations=20")
    memory = torch.load(folder / "checkpoint.pt", weights_only=True)["learner"]["strategy"]["memory"]["x"]
    stored = {tuple(row) for row in memory.flatten(1).tolist()}
    assert 30 < len(stored) <= 51  # with the row for rejected samples
    by_task = [{tuple(row) for row in of_task(task, 1000).flatten(1).tolist()} for task in range(5)]
    assert counts(folder) == [len(stored & samples) for samples in by_task]
    assert sum(counts(folder)) == len(stored)


# --- forms of stored samples

WAYS = {
    "as they are": lambda x: x,
    "bytes": lambda x: (x * 255).round().to(torch.uint8),
    "float16": lambda x: x.half(),
    "bfloat16": lambda x: x.bfloat16(),
    "normalised bfloat16": lambda x: ((x - 0.3) / 0.37).bfloat16(),
    "float64": lambda x: x.double() * 1e5 - 3e5,
    "divided": lambda x: x / 255,
    "whole numbers": lambda x: (x * 16).long(),
    "each at a scale of its own": lambda x: (x - x.mean((1, 2, 3), True)) / x.std((1, 2, 3), keepdim=True),
    "negatives": lambda x: 1 - x,
    "in one row": lambda x: x.flatten(),
    "with something behind": lambda x: torch.cat([x.flatten(), torch.ones(5)]),
    "in a list": lambda x: [{"a": None}, (x[0], [x[1:]])],
    "as numbers": lambda x: x.flatten(1).tolist(),
    "in the storage behind a view": lambda x: torch.cat([x, torch.zeros(1, 1, 8, 8)])[8:],
    "as columns of memory": lambda x: x.flatten(1).T.contiguous().T,
}


@pytest.fixture(scope="module")
def hidden(finished, tmp_path_factory):
    """The folder of a run whose checkpoint holds samples in each form: five of task 0, three of task 3."""
    folder = Path(shutil.copytree(finished, tmp_path_factory.mktemp("hidden") / "run"))
    parts = [of_task(0, 5 * len(WAYS)).split(5), of_task(3, 3 * len(WAYS)).split(3)]
    add(folder, {name: way(torch.cat(those)) for (name, way), *those in zip(WAYS.items(), *parts, strict=True)})
    return folder


@pytest.fixture(scope="module")
def audited(hidden):
    return audit(hidden)


@pytest.mark.parametrize("way", WAYS)
def test_samples_in_the_checkpoint_are_found(audited, way):
    for task in (audited.tasks[0], audited.tasks[3]):
        assert any(place.startswith(f"checkpoint.pt: learner.strategy.corner.0.deep.{way}") for place in task.locations)


def test_exactly_the_planted_samples_are_found(audited):
    number = len(WAYS)
    assert [task.samples for task in audited.tasks] == [5 * number, 0, 0, 3 * number, 0]
    assert audited.num_retained == 8 * number and audited.violated


def test_found_samples_are_reported_in_one_line(run, gr_audit):
    folder = run("strategy=finetune")
    add(folder, torch.cat([of_task(0, 5), of_task(3, 3)]))
    code, out, err = gr_audit(folder, "--raw-samples")
    assert code == 1
    assert out.splitlines()[:5] == ["task 0: 5", "task 1: 0", "task 2: 0", "task 3: 3", "task 4: 0"]
    assert err.startswith(f"gr-audit: {folder}: stores_raw_samples: false, but 8 training samples were found, in ")
    assert "checkpoint.pt: learner.strategy.corner.0.deep" in err and err.count("\n") == 1


@pytest.mark.filterwarnings("ignore")  # torch's deprecations
@pytest.mark.parametrize("form", ["sparse", "quantised"])
def test_samples_in_sparse_and_quantised_tensors_are_found(smuggle, form):
    x = of_task(4, 3)
    x = x.to_sparse() if form == "sparse" else torch.quantize_per_tensor(x, 1 / 16, 0, torch.quint8)
    assert counts(smuggle(x)) == [0, 0, 0, 0, 3]


@pytest.mark.parametrize("file", ["kept.npz", "figures/kept.npy", "more/kept.pt"])
def test_samples_in_a_file_beside_the_checkpoint_are_found(smuggle, file):
    folder, x = smuggle(None), of_task(2, 4)
    path = folder / file
    path.parent.mkdir(exist_ok=True)
    if path.suffix == ".pt":
        torch.save({"a": x}, path)
    elif path.suffix == ".npz":
        np.savez(path, a=(x * 255).to(torch.uint8).numpy(), names=np.array(["b", "c"]))
    else:
        np.save(path, x.numpy().astype(">f8"))
    result = audit(folder)
    assert [task.samples for task in result.tasks] == [0, 0, 4, 0, 0] and result.violated
    assert result.locations == (file if path.suffix == ".npy" else f"{file}: a",)
    assert result.tasks[2].locations == result.locations


def test_sample_in_several_locations_counts_once(smuggle):
    x = of_task(1, 4)
    folder = smuggle({"a": x, "b": torch.cat([x, x]).half()})
    np.save(folder / "c.npy", x.numpy())
    result = audit(folder)
    assert [task.samples for task in result.tasks] == [0, 4, 0, 0, 0] and result.num_retained == 4
    place = "checkpoint.pt: learner.strategy.corner.0.deep"
    assert result.locations == ("c.npy", f"{place}.a", f"{place}.b")


def test_similar_values_are_not_samples(smuggle):
    x = of_task(0, 20)
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(0))
    test = Digits().load().test.x
    others = (x[:10] * 0.8 + x[10:] * 0.2, x + 0.05 * noise, x.mean(0), noise, test)
    nothing = (torch.zeros(3, 64), torch.full((3, 64), 0.7), torch.full((64,), torch.nan), torch.full((64,), torch.inf))
    folder = smuggle([*others, *nothing, x[:, :, :1].clone(), torch.zeros(0, 64), "text", None, True, []])
    assert counts(folder) == [0] * 5


def test_gradient_in_optimizer_state_is_a_trace_and_not_a_violation(smuggle, gr_audit):
    folder, x = smuggle(None), of_task(2, 4).flatten(1)
    saved = torch.load(folder / "checkpoint.pt", weights_only=True)
    assert saved["learner"]["optimizers"] == {}  # a finished run stores none, and so no traces
    first = torch.zeros(8, 64)
    saved["learner"]["optimizers"]["solver"] = {"first": [first]}
    first[:4] = -1e-4 * x
    save_tensors(folder / "checkpoint.pt", saved)
    code, out, _ = gr_audit(folder, "--raw-samples")
    assert code == 0 and "task 2: 0\n" in out and "none was found\n" in out
    assert "traces of 4 samples (gradients) in the state of optimizers and regularizer\n" in out
    first[:4] = x  # too strong for a gradient
    save_tensors(folder / "checkpoint.pt", saved)
    assert audit(folder).violated and counts(folder) == [0, 0, 4, 0, 0]
    first[:4] = 1e-4 * x
    saved["learner"]["strategy"]["elsewhere"] = first[:2].clone()
    save_tensors(folder / "checkpoint.pt", saved)
    result = audit(folder)
    assert (result.num_retained, result.num_traces) == (2, 2)


def test_run_that_claims_to_store_samples_is_not_violated(run, gr_audit):
    folder = run("strategy=er", "strategy.per_class=3")
    add(folder, x := of_task(0, 1000))
    code, out, err = gr_audit(folder, "--raw-samples")
    assert (code, err) == (0, "") and out.startswith(f"task 0: {len(x)}\ntask 1: 6\n")
    assert f"stores raw samples, as claimed: {len(x) + 24} in checkpoint.pt: learner.strategy.corner" in out


# --- permuted tasks


def test_samples_are_found_raw_and_transformed(run):
    from gr_cli.training.experiment import load_benchmark

    folder = run("strategy=finetune", *PERMUTED)
    train = load_benchmark(stored_settings(folder)).tasks[1].train
    permuted, _ = train.batch(torch.arange(6))
    assert permuted.shape == (6, 1, 12, 12)
    assert counts(folder) == [0, 0, 0]
    add(folder, (permuted * 255).to(torch.uint8))
    assert counts(folder) == [0, 6, 0]
    add(folder, Digits().load().train.x[:4].bfloat16())
    result = audit(folder)
    assert [task.samples for task in result.tasks] == [4, 4, 4] and result.num_retained == 4
    add(folder, [permuted, Digits().load().train.x[4:7].clone()])
    result = audit(folder)
    assert [task.samples for task in result.tasks] == [3, 7, 3] and result.num_retained == 7


def test_exemplars_of_permuted_tasks_are_found(run):
    assert counts(run("strategy=er", "strategy.per_class=4", *PERMUTED, "benchmark.tasks=2")) == [40] * 2


# --- a task in progress


@pytest.fixture
def stopped(run, monkeypatch):
    """The folder of a run that was interrupted after two steps of its third task, as by Ctrl-C."""

    def call(*words: str) -> Path:
        with monkeypatch.context() as patch:
            patch.setattr("gr_cli.terminal.run_display.TerminalObserver", lambda **_: StopAt(2, 1))
            return run(*words, code=130)

    return call


@pytest.mark.parametrize(
    "generator", ["vae", "symmetric_vae", "conv_vae", "cvae", "class_vae", "flow", "mixture", "wgan_gp"]
)
def test_generated_samples_are_not_training_samples(stopped, gr_run, generator):
    # During a task, memory and checkpoint hold generated samples of earlier tasks.
    folder = stopped(f"generator={generator}", "strategy.generator_update_freq=1")
    result, memory = audit(folder), 0 if generator == "mixture" else 64
    assert [task.samples for task in result.tasks] == [0, 0, memory, 0, 0] and not result.violated
    assert gr_run(f"resume={folder}")[0] == 0
    assert counts(folder) == [0] * 5


def test_task_in_progress_may_store_its_samples(stopped, gr_run, gr_audit):
    folder = stopped()
    code, out, err = gr_audit(folder, "--raw-samples")
    assert (code, err) == (0, "")
    assert out.splitlines()[:5] == ["task 0: 0", "task 1: 0", "task 2 (in progress): 64", "task 3: 0", "task 4: 0"]
    assert out.splitlines()[-1] == "stores_raw_samples: false, and none was found of a finished task"
    assert gr_run(f"resume={folder}")[0] == 0
    assert counts(folder) == [0] * 5


def test_finished_task_may_not_store_its_samples(stopped, gr_audit):
    folder = stopped()
    add(folder, of_task(1, 3))
    code, out, err = gr_audit(folder, "--raw-samples")
    assert code == 1 and "task 1: 3\ntask 2 (in progress): 64\n" in out
    assert err.endswith("but 3 training samples were found, in checkpoint.pt: learner.strategy.corner.0.deep\n")


def test_all_tasks_of_a_cumulative_stage_are_in_progress(stopped):
    result = audit(stopped("strategy=cumulative"))
    assert [task.in_progress for task in result.tasks] == [True, True, True, False, False]


# --- folders that can't be audited


def test_a_folder_without_a_checkpoint_is_refused(run, gr_audit):
    folder = run("strategy=finetune")
    (folder / "checkpoint.pt").unlink()
    line = f"gr-audit: {folder}: holds no checkpoint yet; continue it with resume={folder}\n"
    assert gr_audit(folder, "--raw-samples") == (2, "", line)


@pytest.mark.parametrize(
    ("file", "content", "expected"),
    [
        ("status.json", b'{"state": "finished"}', "has no stores_raw_samples"),
        ("status.json", b"{}", "`state` in status.json"),
        ("status.json", b"{", "can't be read"),
        ("checkpoint.pt", b"", "is damaged"),
        ("config.yaml", b"python_api: {}", "not the configuration of a run of gr-run"),
    ],
)
def test_damaged_files_are_one_line(smuggle, gr_audit, file, content, expected):
    folder = smuggle(None)
    (folder / file).write_bytes(content)
    code, out, err = gr_audit(folder, "--raw-samples")
    assert (code, out) == (2, "") and err.startswith("gr-audit: ") and err.count("\n") == 1
    assert re.search(expected, err), err


def test_foreign_checkpoint_is_refused(smuggle, gr_audit):
    folder = smuggle(None)
    save_tensors(folder / "checkpoint.pt", {"weights": torch.zeros(3)})
    code, _, err = gr_audit(folder, "--raw-samples")
    assert code == 2 and "its checkpoint is not that of a run" in err


def points(seed: int) -> Benchmark:
    """Two tasks of samples with few values."""
    draws = torch.Generator().manual_seed(seed)
    parts = [Samples(torch.rand(40, 8, generator=draws), torch.arange(40) % 2) for _ in range(2)]
    return Benchmark(
        tuple(Task(i, str(i), ("a", "b"), part, part) for i, part in enumerate(parts)), SampleSpec((8,), None)
    )


def test_samples_of_few_values_are_refused(gr_run, gr_audit):
    Path("mine/benchmark").mkdir(parents=True)
    Path("mine/benchmark/points.yaml").write_text(f"_target_: {__name__}.points\n")
    assert gr_run("--config-dir", "mine", "benchmark=points", "strategy=finetune", *TINY)[0] == 0
    code, _, err = gr_audit("--config-dir", "mine", only_run(), "--raw-samples")
    assert code == 2 and "samples of 8 values resemble other numbers by chance" in err and err.count("\n") == 1


def test_audit_changes_neither_files_nor_random_state(run, gr_audit):
    folder = run("strategy=er", "strategy.per_class=3")
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    state = torch.get_rng_state()
    gr_audit(folder, "--raw-samples")
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before
    assert torch.equal(state, torch.get_rng_state())
    shutil.copytree(folder, "elsewhere")
    assert counts(Path("elsewhere")) == counts(folder)
