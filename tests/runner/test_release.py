"""gr-run release=<folder> writes what the claim of a run covers to a new folder, and load_release loads it."""

import hashlib
import json
from pathlib import Path

import pytest
import torch
import yaml
from torch import nn

import gr_cli
from gr_cli.errors import FolderError
from gr_cli.privacy.claims import SIMULATED
from gr_cli.runner import release as module
from gr_cli.runner.released_networks import check_buffers
from gr_cli.training.experiment import load_benchmark
from helpers.interruption import only_run
from helpers.shipped_methods import settings_of
from helpers.situations_release import (
    CLASSIFIER,
    PARTS,
    REPLAY,
    SMALL,
    TRUST,
    change_table,
    edit_ledger,
    remove_ledger,
    spend_more,
)

PER_TASK = (*REPLAY, "strategy.generator_scope=per_task")
BY_GRADIENTS = (
    "strategy=generative_replay", "generator=cvae", f"gradient_rule._target_={PARTS}.Spending", "privacy.epsilon=2",
    "strategy.generator_data=current_and_replay", "strategy.generator_update_freq=1", *SMALL, "threads=1", "seed=7",
    "generator.hidden_dims=[8]",
)  # fmt: skip
METHODS = {"classifier": CLASSIFIER, "replay": REPLAY, "per task": PER_TASK, "gradients": BY_GRADIENTS}
NETWORKS = {
    "classifier": {"generator.pt"},
    "replay": {"generator.pt", "solver.pt"},
    "per task": {"generator.pt", "solver.pt"},
    "gradients": {"generator.pt", "solver.pt"},
}
SECURE = "privacy.secure=true"


def released(gr_run, folder, *words):
    code, out, err = gr_run(f"release={folder}", TRUST, *words)
    assert (code, err) == (0, ""), err
    (line,) = (line for line in out.splitlines() if line.startswith("released: "))
    return Path(line.removeprefix("released: "))


def load(folder):
    return gr_cli.load_release(folder, trust=PARTS)


def test_samples():
    benchmark = load_benchmark(settings_of(*CLASSIFIER))
    return torch.cat([x for task in benchmark.tasks for x, _ in task.test.batches()])


test_samples.__test__ = False


@pytest.mark.parametrize("method", METHODS)
def test_a_release_has_the_networks_of_the_run_and_no_other_files(gr_run, made, method):
    folder = made(*METHODS[method])
    target = released(gr_run, folder)
    names = {path.name for path in target.iterdir()}
    assert names == NETWORKS[method] | {"config.yaml", "privacy.csv", "README.md", "manifest.json"}
    run, release = gr_cli.load_run(folder, trust=PARTS), load(target)
    samples = [
        net.generate(20, generator=torch.Generator().manual_seed(0)) for net in (run.generator, release.generator)
    ]
    assert torch.equal(*samples)
    x = test_samples()
    if release.solver is None:
        assert method == "classifier"
        assert torch.equal(release.scores(x), run.generator.learned_log_likelihoods(x))
    else:
        with torch.no_grad():
            assert torch.equal(release.scores(x), run.solver(x))
    assert release.classify(x) == [release.classes[unit] for unit in release.scores(x).argmax(-1).tolist()]
    assert release.classes == tuple("0123456789")


@pytest.mark.parametrize("method", METHODS)
def test_nothing_of_a_release_tells_the_seed(gr_run, made, method):
    target = released(gr_run, made(*METHODS[method]))
    assert "seed" not in target.name
    settings = yaml.safe_load((target / "config.yaml").read_text(encoding="utf-8"))
    assert not {"seed", "data_root", "cache_root", "output_root", "membership", "labels"} & set(settings)
    names = {name for path in target.glob("*.pt") for name in torch.load(path, weights_only=True)}
    assert names == {"claim", "states"}


def test_the_manifest_has_the_hash_of_every_file(gr_run, made):
    target = released(gr_run, made(*REPLAY))
    files = json.loads((target / "manifest.json").read_text(encoding="utf-8"))["files"]
    assert set(files) == {path.name for path in target.iterdir()} - {"manifest.json"}
    text = (target / "README.md").read_text(encoding="utf-8")
    for name, file in files.items():
        assert file["sha256"] == hashlib.sha256((target / name).read_bytes()).hexdigest()
        assert name == "README.md" or f"| {name} | {file['content']} | `{file['sha256']}` |" in text


def test_every_file_says_that_privacy_is_simulated(gr_run, made):
    target = released(gr_run, made(*REPLAY))
    for path in target.iterdir():
        if path.suffix == ".pt":
            assert torch.load(path, weights_only=True)["claim"] == SIMULATED
        else:
            assert SIMULATED in path.read_text(encoding="utf-8"), path
    assert "private" not in (target / "README.md").read_text(encoding="utf-8")
    release = load(target)
    assert (release.claim, release.manifest.simulated) == (SIMULATED, True)
    assert release.manifest.epsilon == pytest.approx(2) and release.manifest.delta == 1e-5


def test_a_secure_run_is_released_with_its_claim(gr_run, made):
    target = released(gr_run, made(*CLASSIFIER, SECURE))
    release = load(target)
    assert release.claim == "(2, 1e-05)-differential privacy of one training sample, add or remove one sample"
    assert repr(release) == f"Release({str(release.folder)!r}, {release.claim})"
    assert not release.manifest.simulated
    for path in target.iterdir():
        assert path.suffix == ".pt" or SIMULATED not in path.read_text(encoding="utf-8"), path


def test_the_order_of_the_classes_that_the_seed_drew_is_said(gr_run, made):
    target = released(gr_run, made(*CLASSIFIER, "benchmark.class_order=shuffled"))
    assert "It narrows the seed down" in (target / "README.md").read_text(encoding="utf-8")
    release = load(target)
    assert sorted(release.classes) == list("0123456789") != list(release.classes)


# --- a new folder, whole or not at all


def test_a_second_release_overwrites_nothing(gr_run, made):
    folder = made(*CLASSIFIER)
    target = released(gr_run, folder)
    before = {path: path.read_bytes() for path in target.iterdir()}
    code, _, err = gr_run(f"release={folder}", TRUST)
    assert code == 2 and "exists, and a release overwrites nothing" in err
    assert before == {path: path.read_bytes() for path in target.iterdir()}
    other = released(gr_run, folder, "to=other")
    assert other == Path("other").absolute()
    assert {path.name: path.read_bytes() for path in other.iterdir()} == {p.name: c for p, c in before.items()}


@pytest.mark.parametrize("file", ["generator.pt", "privacy.csv", "manifest.json"])
def test_an_interrupted_release_leaves_nothing(gr_run, made, monkeypatch, file):
    folder = made(*CLASSIFIER)
    write = module.write_bytes

    def interrupted(path, content):
        if path.name == file:
            raise KeyboardInterrupt
        write(path, content)

    monkeypatch.setattr(module, "write_bytes", interrupted)
    assert gr_run(f"release={folder}", TRUST, "to=new/released")[0] == 130
    assert list(Path("new").iterdir()) == []
    monkeypatch.setattr(module, "write_bytes", write)
    released(gr_run, folder, "to=new/released")
    assert [path.name for path in Path("new").iterdir()] == ["released"]


def test_the_folder_of_the_run_stays_as_it_is(gr_run, made):
    folder = made(*REPLAY)
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    released(gr_run, folder)
    assert before == {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# --- claims that are void


VOID = {
    "is missing, so that it is unknown": remove_ledger,
    "has no entry for task 4": lambda folder: edit_ledger(folder, lambda lines: lines[:-1]),
    "more than the budget": spend_more,
    "was damaged or changed": change_table,
}


@pytest.mark.parametrize("reason", VOID)
def test_a_void_claim_is_not_released(gr_run, made, reason):
    folder = made(*CLASSIFIER)
    VOID[reason](folder)
    code, _, err = gr_run(f"release={folder}", TRUST, "to=released")
    assert code == 2 and reason in err and len(err.splitlines()) == 1
    assert not Path("released").exists()


def test_an_unfinished_run_is_not_released(gr_run, interrupted):
    interrupted(*REPLAY, at=(1, 2))
    code, _, err = gr_run(f"release={only_run()}", TRUST)
    assert code == 2 and "is interrupted, and only a finished run is released" in err


def test_a_statistic_that_no_noise_is_on_voids_the_claim():
    trained, untrained = nn.BatchNorm1d(2), nn.BatchNorm1d(2)
    check_buffers("solver", trained, untrained)
    trained(torch.rand(4, 2))
    with pytest.raises(FolderError, match="its buffer running_mean was computed from samples without noise"):
        check_buffers("solver", trained, untrained)


# --- loading


def test_a_changed_file_is_not_loaded(gr_run, made):
    target = released(gr_run, made(*CLASSIFIER))
    for name, reason in {"generator.pt": "damaged or changed", "config.yaml": "can't be read"}.items():
        content = (target / name).read_bytes()
        (target / name).write_bytes(content[:-1] + b"!") if name == "generator.pt" else (target / name).unlink()
        with pytest.raises(gr_cli.GrError, match=reason):
            load(target)
        (target / name).write_bytes(content)
    load(target)


def test_a_folder_that_is_no_release_and_untrusted_code_are_refused(gr_run, made):
    folder = made(*CLASSIFIER)
    with pytest.raises(gr_cli.GrError, match="is not the manifest of a release"):
        load(folder)
    with pytest.raises(gr_cli.GrError, match="names code that is not part of this program"):
        gr_cli.load_release(released(gr_run, folder))


def test_a_run_is_released_from_python(made):
    run = gr_cli.load_run(made(*REPLAY), trust=PARTS)
    release = run.release("here/released")
    assert release.folder == Path("here/released").absolute()
    state = release.solver.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in run.solver.state_dict().items())
    with pytest.raises(FolderError, match="overwrites nothing"):
        run.release("here/released")
