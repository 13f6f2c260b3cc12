# %% [markdown]
# # Bring your own images
#
# `gr-run` learns images that lie in a folder for each class. This example draws small images itself, so that it
# needs no download; replace FOLDER by a folder of yours. Run it as a script, or cell by cell in an editor that knows
# `# %%`.

# %%
from pathlib import Path

import numpy as np
from PIL import Image

from gr_cli import load_run
from gr_cli.cli.main import main as gr_run
from gr_cli.report.cli import main as gr_report

FOLDER = Path("shapes")
SIZE, PER_CLASS = 16, 40

# %% [markdown]
# Four classes: a disc, a ring, a square and a cross, at random places and in random colours. A fifth of the images of
# each class is used for testing.


# %%
def draw(shape: str, rng: np.random.Generator) -> Image.Image:
    """One image of a shape."""
    row, column = np.mgrid[:SIZE, :SIZE] - rng.uniform(5, SIZE - 6, (2, 1, 1))
    distance = np.hypot(row, column)
    masks = {
        "disc": distance < 4,
        "ring": (distance < 5) & (distance > 3),
        "square": np.maximum(abs(row), abs(column)) < 4,
        "cross": (np.minimum(abs(row), abs(column)) < 1.2) & (np.maximum(abs(row), abs(column)) < 5),
    }
    ground, colour = rng.integers(0, 90, 3), rng.integers(130, 256, 3)
    return Image.fromarray(np.where(masks[shape][..., None], colour, ground).astype(np.uint8))


rng = np.random.default_rng(0)
for shape in ("disc", "ring", "square", "cross"):
    (FOLDER / shape).mkdir(parents=True, exist_ok=True)
    for i in range(PER_CLASS):
        draw(shape, rng).save(FOLDER / shape / f"{i}.png")

# %% [markdown]
# Look at the data first: nothing is trained. `gr_run([...])` does what `gr-run ...` does on the command line, and
# returns its exit code.

# %%
data = ["benchmark=image_folder", f"benchmark.source.path={FOLDER}"]
assert gr_run([*data, "inspect=true"]) == 0

# %% [markdown]
# Two tasks of two classes, learned by generative replay with a mixture of Gaussians for each class, and without replay.

# %%
short = ["train.iterations=200", "generator.num_components=4"]
for strategy in ("generative_replay", "finetune"):
    assert gr_run([*data, "generator=mixture", f"strategy={strategy}", *short]) == 0

# %% [markdown]
# The runs in one table, and the accuracy matrix of each: a row for each trained task, a column for each task.

# %%
assert gr_report(["outputs/image_folder"]) == 0
for config in sorted(Path("outputs/image_folder").glob("*/*/config.yaml")):
    run = load_run(config.parent)
    print(config.parent.parent.name, run.matrix)
