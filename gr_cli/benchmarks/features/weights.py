"""Weights of frozen feature extractors from a file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from gr_cli.errors import DataError

_STATE_DICT_HINT = "write it with torch.save(network.state_dict(), file)"


def load_weights(network: nn.Module, path: Path, ignored: Sequence[str] = ()) -> None:
    """Load a state dict from a file into `network`. It may be the entry `state` of a dict.

    Args:
        network: The network.
        path: The file.
        ignored: Prefixes of entries of layers that `network` does not have.

    Raises:
        DataError: The file can't be read, is no state dict, or doesn't fit the network.
    """
    field = f"benchmark.features.weights={path}"
    stored = _read(path, field)
    expected = network.state_dict()
    weights = {str(name): value for name, value in stored.items() if not str(name).startswith(tuple(ignored))}
    _raise_if_any(field, "lacks", [name for name in expected if name not in weights])
    _raise_if_any(field, "has unexpected entries:", [name for name in weights if name not in expected])
    for name, value in weights.items():
        if value.shape != expected[name].shape:
            raise DataError(
                f"{field}: {name} has shape {tuple(value.shape)}, and {tuple(expected[name].shape)} is needed; "
                "it must be of a network of the same layers"
            )
    network.load_state_dict(weights)


def _read(path: Path, field: str) -> Mapping[Any, Tensor]:
    """The state dict in a file of torch or of safetensors."""
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            weights: dict[str, Tensor] = load_file(path)
            return weights
        stored = torch.load(path, map_location="cpu", weights_only=True)
    except ImportError as error:
        remedy = "pip install 'gr-cli[timm]'"
        raise DataError(
            f"{field}: is read by safetensors, which is not installed; install it with: {remedy}"
        ) from error
    except OSError as error:
        raise DataError(f"{field}: can't be read ({error.strerror or error}); name a file") from error
    except Exception as error:
        raise DataError(f"{field}: holds no plain tensors ({type(error).__name__}); {_STATE_DICT_HINT}") from error
    if isinstance(stored, dict) and isinstance(stored.get("state"), dict):
        stored = stored["state"]
    if not isinstance(stored, dict) or not all(isinstance(value, Tensor) for value in stored.values()):
        raise DataError(f"{field}: is no state dict; {_STATE_DICT_HINT}")
    return stored


def _raise_if_any(field: str, problem: str, names: Sequence[str]) -> None:
    if names:
        rest = f" and {len(names) - 3} more" if len(names) > 3 else ""
        raise DataError(f"{field}: {problem} {', '.join(names[:3])}{rest}; it must be of a network of the same layers")
