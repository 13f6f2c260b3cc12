"""The networks of a run that its claim of privacy covers, and their states."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from gr_cli.config.settings import Settings
from gr_cli.errors import FolderError
from gr_cli.generators.base import Ensemble, Generator
from gr_cli.nn.sample_spec import SampleSpec
from gr_cli.runner.checkpoints import State
from gr_cli.runner.claim import Claim
from gr_cli.runner.load import load_learner
from gr_cli.training.build import build_learner

# Buffers that follow from the public list of classes and tasks.
_PUBLIC_BUFFERS = {"learned_classes", "num_learned_tasks"}


def released_networks(settings: Settings, saved: State, claim: Claim) -> dict[str, list[dict[str, Tensor]]]:
    """The states of the networks that a claim covers, by name; of an ensemble of generators one for each.

    Args:
        settings: Settings of the run.
        saved: Its checkpoint.
        claim: Its claim.

    Raises:
        FolderError: A network keeps something that no mechanism covers.
    """
    learner, untrained = load_learner(settings, saved), _untrained(settings, saved)
    states: dict[str, list[dict[str, Tensor]]] = {}
    if learner.generator is not None:
        sampled_from = learner.strategy.sampling_generator(0, learner.generator)
        members = sampled_from.generators if isinstance(sampled_from, Ensemble) else [sampled_from]
        for member in members:
            if "gaussian" not in claim.mechanisms("generator"):
                check_buffers("generator", member, untrained["generator"])
        states["generator"] = [_state_of(member) for member in members]
    solver, before = learner.solver, untrained["solver"].state_dict()
    if any(not torch.equal(value, before[name]) for name, value in solver.state_dict().items()):
        if learner.strategy.solver_reads_samples:
            check_buffers("solver", solver, untrained["solver"])
        states["solver"] = [dict(solver.state_dict())]
    # Initial weights of a solver that was never trained would give the seed away.
    return states


def _untrained(settings: Settings, saved: State) -> Mapping[str, nn.Module]:
    spec, units = SampleSpec(**saved["spec"]), saved["learner"]["task_units"]
    learner = build_learner(settings.config, spec, units, torch.device("cpu"), live=settings.live_value)
    networks: dict[str, nn.Module | None] = {"solver": learner.solver, "generator": learner.generator}
    return {name: network for name, network in networks.items() if network is not None}


def _state_of(generator: Generator) -> dict[str, Tensor]:
    return dict(generator.compact_state(generator.state_dict()))


def check_buffers(name: str, trained: nn.Module, untrained: nn.Module) -> None:
    """Check that training by gradients changed no buffer: noise is on the gradients alone.

    Args:
        name: Name of the network.
        trained: The network after training.
        untrained: The same before.

    Raises:
        FolderError: A buffer differs.
    """
    before = dict(untrained.named_buffers())
    for buffer, value in trained.named_buffers():
        if buffer.rpartition(".")[2] not in _PUBLIC_BUFFERS and not torch.equal(value, before[buffer]):
            raise FolderError(
                f"{name}: its buffer {buffer} was computed from samples without noise, and the claim is void; choose "
                f"a {name} without such buffers, as normalisation by batch statistics has them"
            )
