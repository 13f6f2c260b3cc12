"""Small image arrays, and the array files they are written to."""

from pathlib import Path

import numpy as np
import torch

RNG = np.random.default_rng(0)
X, Y = RNG.integers(0, 256, (20, 4, 5), dtype=np.uint8), np.arange(20) % 4
X_TEST, Y_TEST = X[::-1].copy(), Y[::-1].copy()
BOTH = {"x_train": X, "y_train": Y, "x_test": X_TEST, "y_test": Y_TEST}


def write(form: str, arrays: dict[str, np.ndarray]) -> dict[str, str]:
    """Write the arrays as a file of that form; returns the settings that name it."""
    if form == "npz":
        np.savez("set.npz", **arrays)
    elif form == "compressed npz":
        np.savez_compressed("set.npz", **arrays)
    elif form == "pt":
        torch.save({name: torch.from_numpy(value) for name, value in arrays.items()}, "set.pt")
    elif form == "tuple":
        torch.save(tuple(map(torch.from_numpy, arrays.values())), "set.pt")
    else:
        Path("folder").mkdir()
        for name, value in arrays.items():
            np.save(f"folder/{name}.npy", value)
        if form == "pair":
            return {"path": "folder/x.npy", "labels": "folder/y.npy"}
    return {"path": {"folder": "folder", "pt": "set.pt", "tuple": "set.pt"}.get(form, "set.npz")}
