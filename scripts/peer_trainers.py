"""Training of Split MNIST by this program and by Avalanche, task by task, each in a process of its own.

`bench_peers.py` starts this file for each program, with the Python of its environment, and sends one line for each
request. The settings are equal: a ReLU network, cross-entropy over all ten classes, Adam with a rate of 0.001. Each
package is imported where it is used, because neither environment has both.
"""

import json
import sys
from functools import partial
from itertools import pairwise
from time import perf_counter

import torch
from torch import nn

LATENT, LEARNING_RATE = 100, 1e-3
SAMPLES_PER_CLASS = 100  # stored for experience replay
EWC_STRENGTH = 1000.0


OVERRIDES = {
    "finetune": ["strategy=finetune"],
    "ewc": ["strategy=ewc", f"strategy.regularizer.strength={EWC_STRENGTH}"],
    "replay": ["strategy=er", f"strategy.per_class={SAMPLES_PER_CLASS}", "strategy.replay_weight=1.0"],
    "generative_replay": ["strategy=dgr", "strategy.replay_weight=1.0"],
}


class GrTrainer:
    """This program: `Learner.train_task`, as gr-run calls it."""

    def __init__(self, method, seed, options):
        from gr_cli.cli.compose import compose_settings
        from gr_cli.training.experiment import prepare

        settings = compose_settings(
            [
                *OVERRIDES[method],
                f"benchmark={options['benchmark']}",
                f"model.hidden_sizes=[{','.join(map(str, options['hidden']))}]",
                "train.active_classes=all",
                f"train.batch_size={options['batch_size']}",
                f"train.iterations={options['iterations']}",
                f"optimizer.lr={LEARNING_RATE}",
                f"threads={options['threads']}",
                f"seed={seed}",
                "device=cpu",
            ]
        )
        self.experiment = prepare(settings)

    def train(self, task):
        """Train on a task, and return the seconds of each iteration but the first."""
        from gr_cli.training.batches import batches, sample_passes

        learner, stage, ends = self.experiment.learner, self.experiment.stages[task], []
        learner.train_task(
            stage.task,
            batches([self.experiment], task, 0),
            stage.iterations,
            lambda step, losses: ends.append(perf_counter()),
            sample_pass=sample_passes([self.experiment], task),
        )
        return intervals(ends)

    def accuracy(self):
        """Average accuracy on the test samples of all tasks."""
        test_sets = [as_tensors(task.test) for task in self.experiment.benchmark.tasks]
        return mean_accuracy(self.experiment.learner.solver, test_sets)


class AvalancheTrainer:
    """Avalanche: its strategies Naive, EWC, Replay and GenerativeReplay.

    Args:
        method: Which of them.
        seed: Of torch's global stream.
        options: Options of bench_peers.py.
        defaults: Whether it has its default evaluator (accuracy, loss and progress bar of each batch), and images that
            torchvision turns into tensors, as its own Split MNIST; else no evaluator, and samples as one tensor.
    """

    def __init__(self, method, seed, options, defaults=False):
        torch.manual_seed(seed)
        self.tasks = torch.load(options["data"])
        self.shape = self.tasks[0]["train"][0].shape[1:]
        self.options, self.defaults, self.stopwatches = options, defaults, []
        self.experiences = self._benchmark().train_stream
        self.network = nn.Sequential(nn.Flatten(), *layers(self.shape.numel(), *options["hidden"], 10))
        self.strategy = self._strategy(method)

    def _benchmark(self):
        from avalanche.benchmarks import nc_benchmark
        from torchvision.transforms import ToTensor

        sets = [self._dataset(name) for name in ("train", "test")]
        transform = ToTensor() if self.defaults else None
        options = {"train_transform": transform, "eval_transform": transform}
        return nc_benchmark(*sets, len(self.tasks), task_labels=False, shuffle=False, **options)

    def _dataset(self, name):
        x, y = (torch.cat([task[name][i] for task in self.tasks]) for i in (0, 1))
        return Images(x, y) if self.defaults else Tensors(x, y)

    def _strategy(self, method):
        from avalanche.training import supervised
        from avalanche.training.plugins.evaluation import default_evaluator

        common = self._common(self.network) | {"criterion": nn.CrossEntropyLoss()}
        if self.defaults:
            common["evaluator"] = default_evaluator()
        if method == "finetune":
            return supervised.Naive(**common)
        if method == "ewc":
            return supervised.EWC(ewc_lambda=EWC_STRENGTH, **common)
        if method == "replay":
            return supervised.Replay(mem_size=10 * SAMPLES_PER_CLASS, **common)
        return supervised.GenerativeReplay(generator_strategy=self._generator_strategy(), **common)

    def _generator_strategy(self):
        from avalanche.training.plugins import GenerativeReplayPlugin
        from avalanche.training.supervised import VAETraining

        generator = Autoencoder(self.shape, self.options["hidden"])
        return VAETraining(
            criterion=negative_elbo, **self._common(generator, GenerativeReplayPlugin()), device=torch.device("cpu")
        )

    def _common(self, network, *plugins):
        """Arguments that all strategies get."""
        from avalanche.training.plugins import EvaluationPlugin

        stopwatch = make_stopwatch(self.options["iterations"])
        self.stopwatches.append(stopwatch)
        return {
            "model": network,
            "optimizer": torch.optim.Adam(network.parameters(), lr=LEARNING_RATE),
            "train_mb_size": self.options["batch_size"],
            "train_epochs": self.options["iterations"],  # at least that many; the stopwatch ends training
            "plugins": [*plugins, stopwatch],
            "evaluator": EvaluationPlugin(),  # no metrics
        }

    def train(self, task):
        """Train on a task, and return the seconds of each iteration but the first; of generative replay, those of an
        iteration of the solver and one of the generator."""
        for stopwatch in self.stopwatches:
            stopwatch.ends = []
        self.strategy.train(self.experiences[task])
        per_network = [intervals(stopwatch.ends) for stopwatch in self.stopwatches]
        return [sum(seconds) for seconds in zip(*per_network, strict=True)]

    def accuracy(self):
        """Average accuracy on the test samples of all tasks."""
        return mean_accuracy(self.network, [task["test"] for task in self.tasks])


def make_stopwatch(iterations):
    """A plugin of Avalanche that notes when iterations end, and stops training after so many of a task."""
    from avalanche.training.plugins import SupervisedPlugin

    class Stopwatch(SupervisedPlugin):
        def __init__(self):
            super().__init__()
            self.ends = []

        def after_training_iteration(self, strategy, **_):
            self.ends.append(perf_counter())
            if len(self.ends) == iterations:
                strategy.stop_training()

    return Stopwatch()


class Tensors(torch.utils.data.TensorDataset):
    """Samples (N, C, H, W) with labels, and the list of labels that Avalanche splits by."""

    def __init__(self, x, y):
        super().__init__(x, y)
        self.targets = y.tolist()


class Images(torch.utils.data.Dataset):
    """The same as grey images of PIL, as torchvision's MNIST gives them."""

    def __init__(self, x, y):
        self.pixels, self.targets = (x[:, 0] * 255).round().byte().numpy(), y.tolist()

    def __len__(self):
        return len(self.targets)

    def __getitem__(self, index):
        from PIL import Image

        return Image.fromarray(self.pixels[index]), self.targets[index]


class Autoencoder(nn.Module):
    """The VAE of `generator=symmetric_vae`, as a module that Avalanche can train."""

    def __init__(self, shape, hidden):
        super().__init__()
        self.encoder = nn.Sequential(nn.Flatten(), *layers(shape.numel(), *hidden, 2 * LATENT))
        self.decoder = nn.Sequential(*layers(LATENT, *reversed(hidden), shape.numel()), nn.Unflatten(1, shape))

    def forward(self, x):
        mean, log_variance = self.encoder(x).chunk(2, dim=-1)
        return self.decoder(mean + (0.5 * log_variance).exp() * torch.randn_like(mean)), mean, log_variance

    @torch.no_grad()
    def generate(self, batch_size):
        return self.decoder(torch.randn(batch_size, LATENT)).sigmoid()


def negative_elbo(x, output):
    """Negative ELBO per value, averaged over the samples."""
    logits, mean, log_variance = output
    reconstruction = nn.functional.binary_cross_entropy_with_logits(logits, x, reduction="sum")
    kl = 0.5 * (mean.square() + log_variance.exp() - log_variance - 1).sum()
    return (reconstruction + kl) / x.numel()


def layers(*sizes):
    """Linear layers of these sizes with ReLU between them."""
    pairs = [(nn.Linear(a, b), nn.ReLU()) for a, b in pairwise(sizes)]
    return [module for pair in pairs for module in pair][:-1]


def intervals(ends):
    return [later - earlier for earlier, later in pairwise(ends)]


@torch.no_grad()
def mean_accuracy(network, test_sets):
    network.eval()
    accuracies = [(network(x).argmax(-1) == y).double().mean().item() for x, y in test_sets]
    network.train()
    return sum(accuracies) / len(accuracies)


def save_tasks(path, options):
    """Write the tasks of this program's benchmark for the other process."""
    tasks = GrTrainer("finetune", 0, options).experiment.benchmark.tasks
    torch.save([{"train": as_tensors(task.train), "test": as_tensors(task.test)} for task in tasks], path)


def as_tensors(samples):
    """All samples and labels: float32 (N, C, H, W) and int64 (N,)."""
    x, y = zip(*samples.batches(), strict=True)
    return torch.cat(x).float(), torch.cat(y)


WITH_DEFAULTS = "avalanche with its defaults"
PROGRAMS = {
    "gr": GrTrainer,
    "avalanche": AvalancheTrainer,
    WITH_DEFAULTS: partial(AvalancheTrainer, defaults=True),
}


def main():
    """Answer requests, one JSON list a line: [name, arguments...]."""
    answers, sys.stdout = sys.stdout, sys.stderr  # answers are the only lines on the standard output
    program, options = sys.argv[1], json.loads(sys.argv[2])
    torch.set_num_threads(options["threads"])
    torch.set_flush_denormal(program != WITH_DEFAULTS)
    trainer = None
    for line in sys.stdin:
        request, *arguments = json.loads(line)
        answer = None
        if request == "version":
            answer = torch.__version__
        elif request == "save":
            save_tasks(*arguments, options)
        elif request == "begin":
            trainer = PROGRAMS[program](*arguments, options)
        else:
            answer = getattr(trainer, request)(*arguments)
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()
