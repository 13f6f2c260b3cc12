"""scripts/bench_peers.py, without Avalanche: the program is compared with itself, and the networks are the same."""

import sys
from pathlib import Path

import pytest
import torch

from gr_cli.generators import VAE

SCRIPTS = Path(__file__).parents[2] / "scripts"


@pytest.fixture
def script(monkeypatch):
    monkeypatch.syspath_prepend(str(SCRIPTS))
    import bench_peers

    return bench_peers


@pytest.fixture
def trainers(monkeypatch):
    monkeypatch.syspath_prepend(str(SCRIPTS))
    import peer_trainers

    return peer_trainers


def test_the_program_beside_itself_has_the_same_accuracy(script, monkeypatch, capsys):
    monkeypatch.setattr(script, "make_environment", lambda folder: sys.executable)
    monkeypatch.setattr(script, "PEERS", ("gr",))
    small = ["--hidden", "8", "--batch-size", "4", "--iterations", "3", "--turns", "1", "--benchmark", "split_digits"]
    script.main([*small, "--method", "replay"])
    header, _, row = capsys.readouterr().out.strip().splitlines()[-3:]
    assert header == "| method | n | gr (ms) | gr (ms) | gr / gr | accuracy (%) |"
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    assert cells[:2] == ["replay 8 4", "1"] and float(cells[2]) > 0 < float(cells[3])
    first, second = cells[-1].split(", ")
    assert first == second


def test_a_process_that_fails_shows_its_message(script):
    trainer = script.Trainer(sys.executable, "gr", {"threads": 1})
    with pytest.raises(SystemExit, match="KeyError: 'benchmark'\n\nbench_peers: gr ended with 1"):
        trainer.ask("begin", "finetune", 0)
    trainer.close()


def test_other_versions_of_torch_are_refused(script, monkeypatch):
    class Stub:
        def __init__(self, python, program, options):
            self.program = program

        def ask(self, request):
            return f"2.{len(self.program)}"

        def close(self):
            pass

    monkeypatch.setattr(script, "Trainer", Stub)
    monkeypatch.setattr(script, "make_environment", lambda folder: sys.executable)
    with pytest.raises(SystemExit, match=r"different torch can't be compared: 2\.2, 2\.27, 2\.9"):
        script.main([])


def test_the_vae_that_avalanche_trains_is_that_of_this_program(trainers):
    """With equal parameters and noise, both have the same negative ELBO per value."""
    torch.manual_seed(0)
    x = torch.rand(5, 1, 4, 3, dtype=torch.float64)
    ours = VAE((1, 4, 3), hidden_dims=(7, 6), latent_dim=trainers.LATENT, dropout=0.0, initialisation="torch").double()
    theirs = trainers.Autoencoder(torch.Size([1, 4, 3]), [7, 6]).double()
    linear = [*ours.encoder, ours.posterior, *ours.decoder, ours.output]
    for target, source in zip(theirs.parameters(), [p for layer in linear for p in layer.parameters()], strict=True):
        target.data.copy_(source.data.view(target.shape))
    torch.manual_seed(1)
    output = theirs(x)
    torch.manual_seed(1)
    noise = {"z": torch.randn(5, trainers.LATENT, dtype=torch.float64)}
    terms = ours.losses("vae", x, noise)
    assert trainers.negative_elbo(x, output).item() == pytest.approx(sum(terms.values()).mean().item(), rel=1e-12)
    assert theirs.float().generate(3).shape == (3, 1, 4, 3)


def test_intervals_leave_out_the_first_iteration(trainers):
    assert trainers.intervals([1.0, 3.0, 3.5]) == [2.0, 0.5]
