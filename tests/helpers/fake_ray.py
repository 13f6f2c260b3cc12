"""The part of Ray that the launcher uses, in this process: actors are objects, and a call is over when it returns."""

import asyncio
import inspect
import sys
import threading
from collections.abc import Callable
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch


class RayError(Exception):
    """Stands for the errors by which Ray reports the loss of an actor."""


class Reference:
    """What a call will return: its value, or the error that it raises."""

    def __init__(self, call: Callable[[], Any]) -> None:
        self.value: Any = None
        self.error: BaseException | None = None
        try:
            self.value = call()
        except Exception as error:
            self.error = error


class FakeRay(ModuleType):
    """A cluster.

    Args:
        nodes: Resources of each node.
        losses: Number of programs whose actor is lost, from the first one on.
        refusal: Raised by `init`.
        broken: Whether no actor can be started.
    """

    def __init__(
        self, nodes: list[dict[str, float]], losses: int = 0, refusal: Any = None, broken: Any = False
    ) -> None:
        super().__init__("ray")
        self.resources, self.losses, self.refusal, self.broken = nodes, losses, refusal, broken
        self.exceptions = SimpleNamespace(RayError=RayError)
        self.asked: list[dict[str, Any]] = []  # resources of each actor that was started
        self.arguments: dict[str, Any] = {}  # of `init`
        self.threads = torch.get_num_threads()

    def is_initialized(self) -> bool:
        return False

    def init(self, address: str | None, **arguments: Any) -> None:
        self.arguments = {"address": address, **arguments}
        if self.refusal is not None:
            raise self.refusal

    def shutdown(self) -> None:
        """Restore what a worker sets in a process of its own, which would end here."""
        torch.set_flush_denormal(False)
        torch.set_num_threads(self.threads)

    def nodes(self) -> list[dict[str, Any]]:
        return [{"Alive": True, "Resources": node} for node in self.resources]

    def cluster_resources(self) -> dict[str, float]:
        return {"CPU": sum(node["CPU"] for node in self.resources)}

    def get_runtime_context(self) -> Any:
        return SimpleNamespace(get_node_id=lambda: "here")

    def remote(self, **options: Any) -> Callable[[type], Any]:
        def start(actor_class: type, *arguments: Any) -> "Actor":
            if actor_class.__name__ == "Worker":
                self.asked.append(options)
            return Actor(self, actor_class(*arguments))

        return lambda actor_class: SimpleNamespace(remote=lambda *arguments: start(actor_class, *arguments))

    def get(self, reference: Reference, timeout: float | None = None) -> Any:
        if reference.error is not None:
            raise reference.error
        return reference.value

    def wait(self, references: list[Reference], num_returns: int = 1, timeout: float = 0.0) -> Any:
        return references[:num_returns], references[num_returns:]

    def kill(self, actor: "Actor") -> None:
        actor.alive = False


class Actor:
    """A handle: `actor.method.remote(...)`."""

    def __init__(self, ray: FakeRay, instance: object) -> None:
        self.ray, self.instance, self.alive = ray, instance, True

    def __getattr__(self, name: str) -> Any:
        return SimpleNamespace(remote=lambda *arguments: Reference(lambda: self._call(name, arguments)))

    def _call(self, name: str, arguments: tuple[Any, ...]) -> Any:
        assert self.alive
        if name == "wait_for_stop":
            threading.Event().wait()  # until this process ends
        if name == "ready" and self.ray.broken:
            raise RayError("The actor died:\nImportError: no such module")
        if name == "train" and self.ray.losses:
            self.ray.losses -= 1
            raise RayError("The actor died:\nits node was lost")
        result = getattr(self.instance, name)(*arguments)
        return asyncio.run(result) if inspect.iscoroutine(result) else result


def install(monkeypatch: pytest.MonkeyPatch, ray: FakeRay) -> FakeRay:
    """Let `import ray` find the fake one, whether Ray is installed or not."""
    strategies = ModuleType("ray.util.scheduling_strategies")
    strategies.NodeAffinitySchedulingStrategy = lambda node_id, soft: (node_id, soft)  # type: ignore[attr-defined]
    modules = {"ray": ray, "ray.util": ModuleType("ray.util"), strategies.__name__: strategies}
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setattr("gr_cli.cli.launchers.selection.find_spec", lambda name: object())
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    return ray
