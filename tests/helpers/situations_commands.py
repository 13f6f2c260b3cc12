"""Messages about command lines: invalid overrides, and options that can't be combined."""

from pathlib import Path

import numpy as np
import torch
from torch import nn

import gr_cli
from gr_cli import ContinualTrainer, SimpleMLP
from gr_cli.cli.launchers.ray_workers import Worker, WorkerOptions
from helpers.fake_ray import FakeRay, install
from helpers.situations import TINY, Hands, Situation, Table, failing, mistake, of_vectors, typed


class Plain(nn.Linear):
    """A user's model without `features` and without layers that can be copied."""

    def __init__(self, input_size: int = 64, output_size: int = 10, hidden_sizes: object = None, dropout: float = 0.0):
        super().__init__(input_size, output_size)


PLAIN = "model._target_=helpers.situations_commands.Plain"


def fecam_of_a_large_power(hands: Hands) -> object:
    """Values above 1 whose power is beyond the range of float64."""
    np.savez("set.npz", x=10 * np.random.default_rng(0).random((20, 6)), y=np.arange(20) % 4)
    return hands.gr_run(
        "benchmark=arrays", "benchmark.source.path=set.npz", *TINY[1:3], "strategy=fecam", "strategy.power=1000"
    )


def more_tasks_than_gates(hands: Hands) -> object:
    config = {"scenario": "domain", "generator": {"type": "bir", "num_tasks": 1}, "continual_strategy": {"bir": {}}}
    trainer = ContinualTrainer(SimpleMLP(4, [3], 2), config)
    for _ in range(2):
        trainer.train_task([(torch.rand(4, 4), torch.tensor([0, 1, 0, 1]))])
    return None


def an_option_that_inherits_from_none(hands: Hands) -> object:
    Path("mine/preset").mkdir(parents=True)
    Path("mine/preset/own.yaml").write_text("# @package _global_\ndefaults:\n  - /nothing\n")
    return hands.gr_run("--config-dir", "mine", "preset=own")


def sweep_in_a_file(hands: Hands) -> object:
    Path("taken").write_text("", encoding="utf-8")
    return hands.gr_run("-m", "seed=0,1", "hydra.sweep.dir=taken")


def sweep_beside_other_files(hands: Hands) -> object:
    Path("taken").mkdir()
    Path("taken/multirun.yaml").write_text("", encoding="utf-8")
    return hands.gr_run("-m", "seed=0,1", "hydra.sweep.dir=taken")


def report_without_a_root(hands: Hands) -> object:
    hands.monkeypatch.setenv("GR_OUTPUT_ROOT", "")
    return gr_cli.load_results()


def with_preset(text: str, swept: str = "own") -> Situation:
    """A sweep with a user's own preset, optionally with swept settings."""

    def do(hands: Hands) -> object:
        Path("mine/preset").mkdir(parents=True)
        Path("mine/preset/own.yaml").write_text(f"# @package _global_\n{text}\n")
        return hands.gr_run("--config-dir", "mine", "-m", f"preset={swept}")

    return do


def of_preset(text: str, *words: str) -> Situation:
    """A run with a user's own file as its preset, or its help."""

    def do(hands: Hands) -> object:
        Path("mine/preset").mkdir(parents=True)
        Path("mine/preset/own.yaml").write_text(f"{text}\n")
        return hands.gr_run("--config-dir", "mine", "preset=own", *words)

    return do


def a_gpu_without_memory(hands: Hands) -> object:
    """Raises torch's out-of-memory error, since there may be no GPU."""
    hands.monkeypatch.setattr(
        "gr_cli.training.learner.Learner.step", failing(torch.OutOfMemoryError("CUDA out of memory"))
    )
    return hands.again()


def without_ray(hands: Hands) -> object:
    """Hides an installed Ray."""
    hands.monkeypatch.setattr("gr_cli.cli.launchers.selection.find_spec", lambda name: None)
    return hands.gr_run("-m", "seed=0,1", "hydra/launcher=batched", "hydra.launcher.where=ray")


def on_ray(words: str, **cluster: object) -> Situation:
    """A sweep on a stand-in for Ray, which fails as `cluster` says."""

    def do(hands: Hands) -> object:
        install(hands.monkeypatch, FakeRay([{"CPU": 1.0}], **cluster))
        return hands.gr_run("-m", *TINY, "hydra/launcher=ray", "seed=0", *words.split())

    return do


def jobs_within_one_another(hands: Hands) -> object:
    """A sweep of two jobs, one of which would lie in the folder of the other."""
    subdir = "hydra.sweep.subdir=a/${oc.select:strategy.memory_size,.}"  # a/. and a/500
    return hands.gr_run("-m", "strategy=finetune,generative_replay", subdir)


def without_tensorboard(hands: Hands) -> object:
    """Hides an installed TensorBoard."""
    hands.monkeypatch.setattr("gr_cli.trackers.trust.find_spec", lambda name: None)
    return hands.gr_run("tracker=tensorboard")


_LAUNCHER = "defaults:\n  - override /hydra/launcher: joblib"

COMMANDS: Table = {
    "training/build.py": [
        ("is fitted in closed form, without gradient steps", typed("generator=mixture +generator/optimizer=adam")),
        ("is fitted in closed form, without gradient steps", typed("generator=mixture +generator/gradient_rule=none")),
        ("shares the solver's loss and gradient rule", typed("strategy=bir generator/gradient_rule=none")),
        ("this model has no argument `moments`", typed(f"{PLAIN} normalise=first_task")),
        ("has no features, and this generator needs them", typed(f"{PLAIN} generator=feedback")),
        ("null means those of the solver, and {} has no hidden_sizes", typed("model=cnn generator=symmetric_vae")),
        ("follows from the other settings", mistake("+model.input_size=63")),
    ],
    "training/experiment.py": [
        ("batch statistics need more than", mistake("model=resnet18 model.norm=batch train.batch_size=1")),
        ("GiB of memory, and there are", mistake("train.batch_size=1000000000000")),
        ("benchmark.task_overlap=on: with scenario=", typed("benchmark.task_overlap=0.1 scenario=task")),
    ],
    "nn/augmentation.py": [
        ("augment.{}={}: needs images", of_vectors("augment.flip=0.5")),
        ("augment.shift={}: shifts images of", mistake("augment.shift=8")),
    ],
    "config/instantiate.py": [
        ("must name an option of this group", typed("+generator.optimizer=3")),
        ("makes a {}, and a {} is needed", mistake("strategy=joint strategy._target_=os.getcwd")),
        ("no such setting; there are", mistake("+strategy.foo=1")),
        ("is needed by", typed("~benchmark.source")),
        ("must be the dotted name of", typed("model._target_=x")),
        ("can't be imported", mistake("model._target_=../x")),
        ("is neither a class nor a function", typed("model._target_=os.sep")),
        ("does not say which settings it takes", mistake("generator._target_=builtins.dict")),
    ],
    "config/arguments.py": [
        ("is beyond all numbers", mistake("generator.latent_dim=99999999999999999999")),
        ("must be a {}: settings with a _target_", mistake("benchmark.source=3")),
        ("{}={}: must be {}", mistake("seed=-1")),
    ],
    "cli/folder_commands.py": [
        ("can't be combined with other arguments: remove", mistake("resume=nowhere seed=1")),
        ("is empty and names no path", mistake("release=")),
    ],
    "results/availability.py": [("holds files that are not of a sweep", sweep_beside_other_files)],
    "config/output_root.py": [("must name a folder", report_without_a_root)],
    "cli/main.py": [
        ("leave it out to see all", typed("--cfg job --package nope")),
        ("compose_and_run", mistake("seed==3"), "seed==3: can't be parsed; "),
    ],
    "cli/compose.py": [
        ("composed_config", lambda hands: gr_cli.run("strategy=nothing"), "no such option"),
        ("settings_from", mistake("data_root=${oc.env:NO_SUCH}"), "can't be resolved"),
    ],
    "cli/hydra_errors.py": [
        ("can't be parsed; {}", mistake("seed==3"), "seed==3: can't be parsed; "),
        ("quote it for the shell, and write key=value", mistake("strategy")),
        ("quote its value: {}", typed("data_root=/a=b"), "data_root=/a=b: can't be parsed; quote its value: "),
        ("can't be composed", mistake("hydra.searchpath=[mine]")),
        ("_error_text", typed("-m --cfg job"), "gr-run: Only one of --run, --multirun, --cfg"),
        ("can't be resolved", mistake("strategy.temperature=${.nothing}")),
        ("no such configuration", an_option_that_inherits_from_none),
        ("no such option", mistake("optimizer=adan")),
        ("write {}={}", typed("-m hydra/sweeper=optuna hydra/sweeper/sampler=tpe"), "write hydra.sweeper.sampler=tpe"),
        ("this {} has no", typed("benchmark=permuted_mnist benchmark/features=conv")),
        ("has no settings", typed("strategy.temperature.x=3")),
        ("has no settings", typed("+seed.x=1")),
        ("no such setting{}; there are", mistake("sead=1")),
        ("{}={}: must be {}", mistake("seed=abc")),
        ("has settings of its own", mistake("train=3")),
        ("_invalid_value", typed("hydra.job.num=x"), "hydra.job.num=x: Value 'x' of type 'str' could not be"),
    ],
    "cli/help.py": [
        ("no such group or setting", mistake("--help strateg")),
        ("can't be imported", of_preset("_target_: no_such_module.Net", "--help")),
    ],
    "config/options.py": [
        ("no such option", mistake("strategy=dgrr --help")),
        ("{} can't be read", of_preset("a: [", "--help")),
        ("inherits from itself", of_preset("defaults: [own]", "--help")),
        ("has a defaults list with", of_preset("defaults: [3]", "--help")),
        ("must hold settings and values", of_preset("- a", "--help")),
    ],
    "generators/class_conv_vae.py": [
        ("needs images", of_vectors("generator=class_conv_vae")),
    ],
    "generators/conv_flow.py": [
        ("needs images", of_vectors("generator=conv_flow")),
        ("needs at least one level", typed("generator=conv_flow generator.channels=[]")),
    ],
    "generators/conv_vae.py": [
        ("needs images", of_vectors("generator=conv_vae")),
        ("needs at least one convolution", typed("generator=conv_vae generator.hidden_dims=[]")),
    ],
    "generators/gaussian.py": [
        ("has a single sample", typed("strategy=generative_classifier generator=gaussian labels.per_class=1")),
    ],
    "generators/mixture.py": [
        ("samples, and needs", of_vectors("generator=mixture")),
    ],
    "generators/private_gaussian.py": [
        ("needs images with values in a range", of_vectors("generator=private_gaussian")),
        ("set privacy.epsilon", typed("strategy=generative_classifier generator=private_gaussian")),
    ],
    "system/devices.py": [
        ("must be auto, cpu", lambda hands: ContinualTrainer(SimpleMLP(), device="tpu")),
        ("is not available: this machine has {} usable GPUs", mistake("device=cuda:99")),
    ],
    "system/memory.py": [
        ("out of memory", mistake("model.hidden_sizes=[1000000000000000000]")),
        ("out of memory", a_gpu_without_memory),
    ],
    "models/cnn.py": [
        ("needs images", of_vectors("model=cnn")),
        ("needs at least one convolution", typed("model=cnn model.channels=[]")),
    ],
    "models/resnet.py": [
        ("needs images", of_vectors("model=resnet18")),
    ],
    "training/normalization.py": [
        ("must be [means, deviations]", typed("normalise=[[0.1,0.2],[1,1]]")),
    ],
    "optimizers.py": [
        ("needs momentum", mistake("optimizer=sgd optimizer.nesterov=true")),
    ],
    "scenario.py": [
        ("must have the same number of classes", typed("scenario=domain benchmark.classes_per_task=[5,3,2]")),
    ],
    "config/settings.py": [
        ("must name an option of this group", typed("~optimizer")),
        ("must be auto, cpu", mistake("device=tpu")),
        ("exactly one must be set", mistake("train.epochs=3")),
        ("has no other length", typed("preset=online train.epochs=1")),
        ("is for single-pass streams", typed("train.updates_per_batch=2")),
        ("has a group of its own", mistake("+strategy.generator={_target_:gr_cli.generators.VAE}")),
        ("no such setting; there are", mistake("+foo=1")),
        ("is missing; it can't be removed", mistake("~train")),
    ],
    "strategies/closed_form.py": [
        ("has a single sample", typed("strategy=ncm labels.per_class=1")),
    ],
    "strategies/fecam.py": [
        (
            "leaves a covariance that is not positive definite",
            typed("strategy=fecam strategy.shrinkage=0 strategy.off_diagonal_shrinkage=100"),
        ),
        ("makes values that are not finite", fecam_of_a_large_power),
    ],
    "strategies/feedback_replay.py": [
        ("the generator has gates for so many tasks only", more_tasks_than_gates),
        ("does not read the solver's features", typed("strategy=rtf generator=vae")),
    ],
    "strategies/generative_classifier.py": [
        ("has no likelihood", typed("strategy=generative_classifier generator=vae")),
        ("learns each class once", typed("strategy=generative_classifier scenario=domain")),
    ],
    "strategies/generator_memory.py": [
        ("would have no training samples", mistake("strategy.memory_size=0")),
    ],
    "strategies/generative_replay.py": [
        ("shares its network with the solver", typed("generator=rtf")),
        ("is fitted once per class", typed("generator=mixture scenario=domain")),
    ],
    "strategies/generator_distillation.py": [
        ("could teach", typed("strategy=dgr strategy.generator_distillation=3")),
        ("needs one generator, trained", typed("generator=flow strategy.generator_distillation=3")),
    ],
    "strategies/replay_targets.py": [
        ("strategy.current_data=generated", typed("strategy.current_data=generated")),
        ("with an exact likelihood", typed("strategy.targets=likelihood")),
        ("strategy.current_targets=", typed("strategy.current_targets=likelihood generator=mixture")),
        ("compares all classes", typed("generator=mixture strategy.targets=likelihood scenario=task")),
    ],
    "strategies/icarl.py": [
        ("needs one output unit per class", typed("strategy=icarl scenario=domain")),
        ("needs a model with features", typed(f"{PLAIN} strategy=icarl")),
    ],
    "benchmarks/labels.py": [
        ("can't be combined with labels.per_class", typed("labels.per_class=5 labels.share=0.5")),
        ("has one class, and a wrong label", typed("labels.noise=0.2 benchmark.classes_per_task=1")),
    ],
    "benchmarks/canaries.py": [
        ("tasks exchange samples, and canaries", typed("canaries.count=5 benchmark.task_overlap=0.1")),
        ("can't be combined with a membership draw", typed("canaries.count=5 membership.draw=0")),
        ("training samples, of which half are left as they are", typed("canaries.count=5000")),
        ("has one class, and a wrong label is another", typed("canaries.count=5 benchmark.classes_per_task=1")),
    ],
    "benchmarks/membership.py": [
        ("tasks exchange samples, and members", typed("membership.draw=0 benchmark.task_overlap=0.1")),
        ("would be members, and members and others", typed("membership.draw=0 membership.share=0.001")),
    ],
    "training/single_pass.py": [
        ("_refuse", typed("preset=online strategy=ewc"), "passes over the samples of a task a second time"),
        ("reads all samples of the first task", typed("preset=online normalise=first_task")),
        (
            "would consolidate between",
            typed("preset=online train.task_boundaries=unknown train.updates_per_batch=2 strategy.consolidate_every=5"),
        ),
        (
            "leaves a last batch of one sample",
            typed("preset=online model=resnet18 model.norm=batch train.batch_size=4 strategy=finetune"),
        ),
    ],
    "training/task_free.py": [
        ("is for task-free streams", typed("strategy.consolidate_every=5")),
        ("each sample has a task label", typed("train.task_boundaries=unknown scenario=task")),
        ("train.task_boundaries=unknown: {} {}", typed("train.task_boundaries=unknown strategy=ewc")),
        ("must be the number of steps between consolidations", typed("train.task_boundaries=unknown")),
    ],
    "cli/callback.py": [
        ("_composition_error", mistake("-m strategy=finetune,foo"), "strategy=foo: no such option"),
        ("_list_jobs", with_preset("hydra: {sweeper: {params: {seed: '1,2['}}}"), "seed=1,2[: can't be parsed"),
        ("which can be set for the whole sweep only", with_preset(_LAUNCHER, "own,none")),
        ("shows one benchmark", typed("-m inspect=true seed=0,1")),
        ("must give values, none of them a sweep itself", typed("-m seed=1,range(3)")),
    ],
    "cli/launchers/selection.py": [
        ("its package is not installed", typed("-m hydra.launcher._target_=hydra_plugins.none.Launcher seed=0")),
        ("must name a launcher", mistake("-m hydra.launcher=3 seed=0")),
        ("Ray is not installed", without_ray),
    ],
    "cli/launchers/ray_launcher.py": [
        ("Ray refuses it", on_ray("", refusal=ValueError("no such argument"))),
        ("can't be connected to", on_ray("hydra.launcher.address=auto", refusal=ConnectionError("nobody there"))),
        ("needs folders below the current directory", on_ray("hydra.launcher.folders=returned hydra.sweep.dir=../s")),
        ("its worker was lost", on_ray("hydra.launcher.max_retries=1", losses=9)),
    ],
    "cli/launchers/ray_workers.py": [
        ("does not exist on", lambda hands: Worker(Path("nowhere").absolute(), None, WorkerOptions())),
        ("no worker can be started", on_ray("", broken=True)),
    ],
    "trackers/trust.py": [
        ("its package is not installed", without_tensorboard),
    ],
    "trackers/mlflow.py": [
        ("must hold no user name and no password", typed("tracker=mlflow tracker.uri=https://me:secret@server.example")),
    ],
    "cli/folders.py": [
        ("can't begin with ~", mistake("-m seed=0,1 hydra.sweep.dir='~no_such_user/x'")),
        ("is not a folder; name a new or empty one", sweep_in_a_file),
        ("is the folder of two jobs", mistake("-m seed=0,1 hydra.sweep.subdir=x")),
        ("lies in the folder of another job", jobs_within_one_another),
        ("can be set for the whole sweep only", mistake("-m output_root=a,b")),
        ("must name a folder inside that of the sweep", mistake("-m seed=0,1 hydra.sweep.subdir=/x")),
        ("must name a folder; leave it out", mistake("hydra.run.dir=")),
        ("is in an unknown user's home folder", mistake("hydra.run.dir='~no_such_user/x'")),
        ("has no effect in a {}", mistake("hydra.sweep.dir=swept")),
    ],
    "cli/overrides.py": [
        ("flags=", mistake("--foo")),
        ("holds bytes that are not UTF-8", typed("strategy=\udcff")),
        ("is empty; write settings below", of_preset("# nothing yet")),
        ("must hold settings and values", of_preset("- seed")),
        ("lacks its header; add as its first line", of_preset("seed: 3")),
        ("must be values by setting", typed("-m hydra.sweeper.params=3")),
        ("has no name", mistake("=3")),
        ("can't be changed", mistake("hydra=3")),
        ("must be one value, the same for all runs", typed("-m seed=0,1 hydra.sweep.subdir=a,b")),
        ("must name an option of this group", mistake("generator=null")),
    ],
}  # fmt: skip
