"""Checks of a caller's model before a task: parameters, training mode, and outputs for a batch."""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, Self

import torch
from torch import Tensor, nn

from gr_cli.errors import ConfigError, DataError, one_line
from gr_cli.generators.base import Generator
from gr_cli.nn.layers import train_mode

Parameters = dict[str, tuple[nn.Parameter, torch.Size]]

PRECISIONS: dict[torch.dtype, Literal["float32", "float64"]] = {torch.float32: "float32", torch.float64: "float64"}
_SINGLE_SAMPLE_ERROR = "more than 1 value per channel"  # in torch's message on batch normalization of one sample


@dataclass(frozen=True)
class ModelState:
    """The model at the start of a task.

    Attributes:
        parameters: Trained parameters with their shapes, by name.
        device: Device of its parameters.
        dtype: Type of its parameters.
        num_units: Number of outputs.
        returns_tensor: Whether it returns its logits as a bare tensor.
        feature_size: Number of features, if a generator reads them; else None.
    """

    parameters: Parameters
    device: torch.device
    dtype: torch.dtype
    num_units: int
    returns_tensor: bool
    feature_size: int | None

    def check_change(self, current: Self, regularizer: object | None) -> None:
        """Check that the model can still be trained with the strategy's state of earlier tasks.

        Raises:
            ConfigError: Names the change that prevents it.
        """
        changes = (
            (f"parameters on {current.device}", self.device, current.device, "move it back: model.to(...)"),
            (f"parameters of {current.dtype}", self.dtype, current.dtype, "convert it back: model.to(...)"),
            (f"{current.num_units} outputs", self.num_units, current.num_units, "make as many as all tasks need"),
            (
                f"{current.feature_size} features",
                self.feature_size,
                current.feature_size,
                "keep the width of its last hidden layer",
            ),
            (
                "a model that returns more than a tensor",
                True,
                current.returns_tensor or not self.returns_tensor,
                "return logits",
            ),
        )
        for what, before, after, remedy in changes:
            if before != after:
                earlier = "" if before is True else f": {before}"
                raise ConfigError("model", what, f"must be as in the first task{earlier}", remedy)
        changed = changed_parameters(self.parameters, current.parameters)
        if changed and regularizer is not None:
            raise ConfigError(
                "model",
                first_names(changed),
                f"can't be replaced, frozen or unfrozen between tasks under {type(regularizer).__name__}, which stores "
                "the importance of each parameter",
                "change values in place, or begin with a new ContinualTrainer",
            )


def first_names(names: Sequence[str]) -> str:
    """The first five of `names`, and how many more there are."""
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


class LogitsOnly(nn.Module):
    """Wraps a model that returns more than a tensor, to return its logits."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        """(B, ...) -> logits (B, U)."""
        return extract_logits(self.model(x))


def extract_logits(output: Any) -> Tensor:
    """The logits in a model's output: a tensor, an entry named `logits`, or the single entry.

    Raises:
        ConfigError: Several entries could be the logits.
    """
    if isinstance(output, Tensor):
        return output
    logits = output.get("logits") if isinstance(output, Mapping) else getattr(output, "logits", None)
    if isinstance(logits, Tensor):
        return logits
    entries = list(output.values()) if isinstance(output, Mapping) else output
    if isinstance(entries, (tuple, list)) and len(entries) == 1 and isinstance(entries[0], Tensor):
        return entries[0]
    number = f" of {len(entries)}" if isinstance(entries, (tuple, list)) else ""
    raise ConfigError(
        "model",
        type(output).__name__ + number,
        "must return logits (B, U): a tensor, or a mapping or an object with an entry `logits`",
    )


# --- parameters


def trained_parameters(model: nn.Module) -> Parameters:
    """Parameters that require gradients, with their shapes, by name."""
    return {name: (p, p.shape) for name, p in model.named_parameters() if p.requires_grad}


def changed_parameters(before: Parameters, now: Parameters) -> list[str]:
    """Names of parameters that were replaced, reshaped, added, removed, frozen, unfrozen or reordered."""
    names = dict.fromkeys([*before, *now])
    changed = [
        name
        for name in names
        if name not in before
        or name not in now
        or before[name][0] is not now[name][0]
        or before[name][1] != now[name][1]
    ]
    return changed or ([] if list(before) == list(now) else list(names))


def check_parameters(model: nn.Module, device: torch.device | None) -> tuple[torch.device, torch.dtype]:
    """Device and dtype of the parameters, after a move to `device` if one is given.

    Raises:
        ConfigError: They can't be trained.
    """
    values = dict(model.named_parameters())
    if not any(p.requires_grad for p in values.values()):
        raise ConfigError("model", type(model).__name__, "has no parameter with requires_grad: nothing can be trained")
    devices = sorted({str(p.device) for p in values.values()})
    if device is None and len(devices) > 1:
        raise ConfigError("model", ", ".join(devices), "must lie on one device", "move it: model.to(device)")
    for name, value in values.items():
        if value.is_meta:
            raise ConfigError("model", name, "is on the meta device, without values; load them before training")
    if device is not None:
        try:
            model.to(device)
        except (RuntimeError, NotImplementedError) as error:
            raise ConfigError("device", device, f"the model can't be moved there ({one_line(error)[:200]})") from error
    types = sorted({str(p.dtype).removeprefix("torch.") for p in values.values() if p.requires_grad})
    if types not in (["float32"], ["float64"]):
        raise ConfigError(
            "model", ", ".join(types), "parameters must be all float32 or all float64", "convert them: model.float()"
        )
    return next(iter(values.values())).device, getattr(torch, types[0])


def check_finite(network: nn.Module, what: str) -> None:
    """Check that all parameters are finite before training.

    Raises:
        ConfigError: Names the first that is not.
    """
    for name, value in network.named_parameters():
        if not value.isfinite().all():
            raise ConfigError(what, name, "holds NaN or infinity before training", "load or initialise it anew")


def check_generator(generator: Generator) -> None:
    """Check that a generator the caller may have changed can still be trained.

    Raises:
        ConfigError: Names the parameter.
    """
    check_finite(generator, "generator_model")
    objectives = generator.objectives().values()
    trained = {id(parameter) for objective in objectives for parameter in objective.parameters}
    for name, parameter in generator.named_parameters():
        if id(parameter) in trained and not parameter.requires_grad:
            raise ConfigError("generator_model", name, "is frozen", "undo it: generator_model.requires_grad_(True)")


# --- modes


def modules_in_eval_mode(model: nn.Module, before: Collection[str]) -> set[str]:
    """Names of the modules that stay in evaluation mode while `model` is trained.

    These are the modules in evaluation mode now, if others are not: the caller set them one by one. After
    `model.eval()` the flags carry no information, and the earlier choice `before` stays.
    """
    flags = {name: module.training for name, module in model.named_modules()}
    if not any(flags.values()):
        return {name for name in flags if name in before}
    return {name for name, training in flags.items() if not training}


@contextmanager
def train_mode_except(model: nn.Module, in_eval_mode: Collection[str]) -> Iterator[None]:
    """Training mode inside the block for all modules except `in_eval_mode`; restored afterwards."""
    before = {module: module.training for module in model.modules()}
    model.train()  # a caller's model may override this, to keep some of its modules in evaluation mode
    for name, module in model.named_modules():
        module.training &= name not in in_eval_mode
    try:
        yield
    finally:
        for module, training in before.items():
            module.training = training


# --- outputs


def check_outputs(model: nn.Module, x: Tensor, loader: str) -> tuple[int, bool]:
    """Number of outputs of `model` for samples like `x` (B, ...), and whether it returns a bare tensor.

    The model is called once in evaluation mode, and a copy once in the current modes of its modules.

    Raises:
        ConfigError: It does not return logits.
        DataError: It can't process such samples.
    """
    version, original = x._version, x.clone()
    with train_mode(model, training=False):
        output = _call_model(model, x, loader)
    if x._version != version and not torch.equal(x, original):
        raise ConfigError("model", type(model).__name__, "changes its input in place", "work on a copy: x = x.clone()")
    logits = extract_logits(output)
    if logits.dim() != 2 or len(logits) != len(x):
        shapes = f"must return logits (B, U), not {tuple(logits.shape)} for {len(x)} samples"
        raise ConfigError("model", type(model).__name__, shapes)
    if logits.shape[1] > 1 and (logits >= 0).all() and (logits.sum(1) - 1).abs().max() < 1e-4:
        raise ConfigError(
            "model", type(model).__name__, "returns probabilities, and logits are needed", "leave out its softmax"
        )
    outputs = [output]
    if (model_copy := _try_copy(model)) is not None:
        outputs.append(_call_model(model_copy, original[:2], loader))
        extract_logits(outputs[-1])
    return logits.shape[1], all(isinstance(output, Tensor) for output in outputs)


def _try_copy(model: nn.Module) -> nn.Module | None:
    """A deep copy, or None if the model can't be copied."""
    try:
        return copy.deepcopy(
            getattr(model, "_orig_mod", model)
        )  # the original of a compiled model: one call is not worth compiling
    except Exception:
        return None


def _call_model(model: nn.Module, x: Tensor, loader: str) -> Any:
    mismatches: list[str] = []
    layers = [(name, layer) for name, layer in model.named_modules() if _expected_input_size(layer) is not None]
    handles = [layer.register_forward_pre_hook(_size_mismatch_hook(name, mismatches)) for name, layer in layers]
    try:
        return model(x)
    except (RuntimeError, ValueError, TypeError, IndexError) as error:
        if _SINGLE_SAMPLE_ERROR in str(error):
            raise _single_sample_error(loader) from error
        why = mismatches[0] if mismatches else one_line(error)[:300]
        raise DataError(f"{loader}: the model can't take samples of shape {tuple(x.shape[1:])}: {why}") from error
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def translate_torch_errors(loader: str) -> Iterator[None]:
    """Replace torch's error on batch normalization of one sample by one that names the loader.

    Raises:
        DataError: A batch has a single sample.
    """
    try:
        yield
    except ValueError as error:
        if _SINGLE_SAMPLE_ERROR in str(error):
            raise _single_sample_error(loader) from error
        raise


def check_copy(model: nn.Module) -> None:
    """Check that the model can be copied, for strategies with a teacher.

    Raises:
        ConfigError: It can't.
    """
    try:
        copy.deepcopy(model)
    except Exception as error:
        why = f"can't be copied ({one_line(error)[:200]}), and this strategy keeps a copy of it during each task"
        raise ConfigError("model", type(model).__name__, why) from error


def _single_sample_error(loader: str) -> DataError:
    return DataError(
        f"{loader}: a batch has one sample, and the model's batch normalisation needs two; use "
        "DataLoader(..., drop_last=True) or another batch_size"
    )


def check_single_sample(model: nn.Module, x: Tensor, loader: str) -> None:
    """Check that the model can process a batch of one sample, `x` (1, ...).

    Raises:
        DataError: It can't.
    """
    if (model_copy := _try_copy(model)) is not None:
        _call_model(model_copy, x, loader)


def _expected_input_size(layer: nn.Module) -> tuple[int, int] | None:
    """Input size of a layer and its axis: features on the last axis, channels on the second."""
    size = getattr(layer, "in_features", None)
    if isinstance(layer, nn.Linear) and isinstance(size, int):
        return size, -1
    channels = getattr(layer, "in_channels", None)
    return (channels, 1) if isinstance(channels, int) else None


def _size_mismatch_hook(name: str, mismatches: list[str]) -> Callable[[nn.Module, tuple[Any, ...]], None]:
    """A forward pre-hook that appends a message to `mismatches` if the input has a wrong size."""

    def record_mismatch(layer: nn.Module, inputs: tuple[Any, ...]) -> None:
        size, axis = _expected_input_size(layer) or (0, 0)
        if inputs and isinstance(inputs[0], Tensor) and inputs[0].dim() > 1 and inputs[0].shape[axis] != size:
            what = "values" if axis == -1 else "channels"
            mismatches.append(f"its layer {name or 'itself'} takes {size} {what}, and gets {inputs[0].shape[axis]}")

    return record_mismatch
