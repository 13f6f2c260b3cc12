# %% [markdown]
# # Compare three strategies from Python
#
# Ten handwritten digits arrive in five tasks of two classes. A network is trained without replay, with generative
# replay from a mixture of Gaussians for each class, and with experience replay of stored samples, with three seeds
# each. Run this as a script, or cell by cell in an editor that knows `# %%`.

# %%
from statistics import mean, stdev

import torch
from torch.utils.data import DataLoader, TensorDataset

from gr_cli import ContinualTrainer, SimpleMLP
from gr_cli.benchmarks import Benchmark, Digits, split

EPOCHS = 10
SEEDS = (0, 1, 2)
STRATEGIES = {
    "finetune": {"continual_strategy": {"finetune": {"enabled": True}}},
    "generative_replay": {
        "continual_strategy": {"generative_replay": {"enabled": True}},
        "generator": {"type": "mixture", "num_components": 10, "latent_dim": 30},
    },
    "er": {"continual_strategy": {"er": {"enabled": True, "per_class": 20}}},
}

# %% [markdown]
# A benchmark is a stream of tasks. Labels of each task count from 0; output units of the network count all classes, so
# two are added for each earlier task.


# %%
def loader(samples, offset, seed):
    """Batches of (images, output units) of one task."""
    images, labels = samples.batch(torch.arange(len(samples)))
    order = torch.Generator().manual_seed(seed)
    return DataLoader(TensorDataset(images, labels + offset), batch_size=32, shuffle=True, generator=order)


def train(stream: Benchmark, config: dict, seed: int) -> ContinualTrainer:
    """One network trained on all tasks in turn."""
    torch.manual_seed(seed)
    model = SimpleMLP(input_size=64, hidden_sizes=[128, 64], output_size=10)
    trainer = ContinualTrainer(model, config | {"seed": seed})
    for task in stream.tasks:
        train_loader, test_loader = (loader(part, 2 * task.id, seed) for part in (task.train, task.test))
        trainer.train_task(train_loader, test_loader, task_id=task.id, num_epochs=EPOCHS)
    return trainer


# %%
stream = split(Digits(), seed=0, classes_per_task=2)
trained = {name: [train(stream, config, seed) for seed in SEEDS] for name, config in STRATEGIES.items()}

# %% [markdown]
# Average accuracy over the tasks after the last one, and forgetting: mean ± standard deviation over seeds.

# %%
for name, trainers in trained.items():
    columns = []
    for metric in ("average_accuracy", "forgetting"):
        values = [100 * trainer.metrics[metric] for trainer in trainers]
        columns.append(f"{metric} {mean(values):5.1f} ± {stdev(values):4.1f} %")
    print(f"{name:18} {'   '.join(columns)}   (n = {len(SEEDS)})")

# %% [markdown]
# The accuracy matrix of a run has a row for each trained task and a column for each task.

# %%
for row in trained["generative_replay"][0].accuracy_matrix:
    print(" ".join("    –" if value is None else f"{100 * value:5.1f}" for value in row))
