"""Jobs of a sweep that share their options are composed from one configuration."""

import re
from dataclasses import replace

import pytest
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.hydra_config import HydraConfig
from omegaconf import OmegaConf

from gr_cli.cli import main
from gr_cli.cli.compose import compose_settings, plain_overrides
from gr_cli.cli.job_composer import JobComposer
from gr_cli.cli.sweep import current_sweep


@pytest.fixture
def sweep_settings(gr_run, monkeypatch):
    """The settings of each job of a sweep by its overrides, without training; and how often Hydra composed."""

    def of(*words):
        composed = []
        load = JobComposer.__init__

        def counting(composer, *arguments):
            load(composer, *arguments)
            loader = composer._loader
            composer._loader = CountingLoader(loader, composed)

        monkeypatch.setattr(JobComposer, "__init__", counting)
        monkeypatch.setattr(main, "_job", lambda config: None)
        gr_run("-m", *words)
        settings = {words: settings for words, (settings, _) in current_sweep()._validated.items()}
        return settings, len(composed)

    return of


class CountingLoader:
    def __init__(self, loader, composed):
        self.repository = loader.repository
        self.loader, self.composed = loader, composed

    def load_sweep_config(self, config, overrides):
        self.composed.append(overrides)
        return self.loader.load_sweep_config(config, overrides)


@pytest.mark.parametrize(
    ("words", "composed"),
    [
        (["seed=range(5)"], 1),
        (["strategy=dgr,finetune", "seed=0,1"], 2),
        (["train.iterations=3,7", "model.hidden_sizes=[8],[4,4]", "strategy.replay_weight=0.5,by_tasks"], 1),
        (["optimizer=sgd", "optimizer.lr=0.1,0.2", "++optimizer.momentum=0.9"], 1),
        (["strategy=bir", "strategy/regularizer=si,ewc", "strategy.regularizer.strength=1,2"], 2),
        (["train.batch_size=64,128", "log.every=${train.batch_size}"], 1),
        (["preset=smoke,dgr_paper", "train.iterations=5"], 2),
        (["seed=range(5)", "hydra.sweep.subdir=${hydra.job.override_dirname}_${hydra.job.num}"], 1),
        (["benchmark={classes_per_task:5},{classes_per_task:1}"], 1),
    ],
    ids=str,
)
def test_settings_are_those_of_the_job_alone(sweep_settings, words, composed):
    settings, times = sweep_settings(*words)
    assert len(settings) > 1 and times == composed
    for overrides, of_job in settings.items():
        plain = [re.sub(r"^(\w+)=\{(\w+):(.*)\}$", r"\1.\2=\3", word) for word in overrides]
        alone = replace(compose_settings(plain), overrides=overrides)
        assert of_job == alone
        assert of_job.as_yaml() == alone.as_yaml()


@pytest.mark.parametrize(
    "words",
    [
        ["strategy=dgr,finetune", "seed=0,1", "hydra.verbose=false"],
        ["optimizer=sgd", "optimizer.lr=0.1,0.2", "++optimizer.momentum=0.9", "log.every=${train.batch_size}"],
    ],
    ids=str,
)
def test_hydra_launches_jobs_that_were_composed_already(gr_run, monkeypatch, words):
    launched, compose = [], ConfigLoaderImpl.load_sweep_config
    expected = {}

    def job(config):
        hydra, composer = HydraConfig.get(), current_sweep().composer
        overrides = plain_overrides(hydra.overrides.task)
        launched.append((OmegaConf.to_container(config, resolve=False), overrides, hydra.job.override_dirname))
        expected[tuple(overrides)] = compose(composer._loader, composer._config, overrides)
        assert plain(composer.config(overrides)) == plain(expected[tuple(overrides)])

    def plain(config):
        return OmegaConf.to_container(config, resolve=False)

    def count(self, *arguments):
        composed.append(arguments)
        return compose(self, *arguments)

    composed = []
    monkeypatch.setattr(ConfigLoaderImpl, "load_sweep_config", count)
    monkeypatch.setattr(main, "_job", job)
    gr_run("-m", *words)
    assert len(launched) == len(current_sweep().jobs) > 1
    assert len(composed) == len({tuple(each for each in o if each.startswith("strategy=")) for _, o, _ in launched})
    for config, overrides, dirname in launched:
        hydra_config = expected[tuple(overrides)]
        assert dirname == hydra_config.hydra.job.override_dirname
        assert config == {name: value for name, value in plain(hydra_config).items() if name != "hydra"}
