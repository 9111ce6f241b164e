"""The processes of a run: this one alone, or several that share the work and average their gradients by Lightning Fabric."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from fretsaw.errors import ConfigError, MissingExtraError


class Processes:
    """This process alone.

    Attributes:
        rank: Number of this process; 0 writes logs and checkpoints.
        count: How many there are.
    """

    rank = 0
    count = 1

    def setup(self, model: nn.Module) -> nn.Module:
        """Return the module to call in place of `model`; its gradients are averages over the processes."""
        return model

    def backward(self, loss: Tensor) -> None:
        """Compute gradients."""
        loss.backward()  # pyright: ignore[reportUnknownMemberType]

    def mean(self, value: Tensor) -> Tensor:
        """Return a scalar's mean over the processes."""
        return value

    def agree(self, wanted: bool) -> bool:
        """Return process 0's value in every process."""
        return wanted

    def wait(self) -> None:
        """Wait until every process has called this."""


ONE = Processes()
"""One process."""


class FabricProcesses(Processes):
    """Several processes on one machine, each with a copy of the model: PyTorch's DistributedDataParallel, launched by Lightning Fabric.

    Args:
        fabric: A launched `lightning_fabric.Fabric`.
    """

    def __init__(self, fabric: Any) -> None:
        self._fabric = fabric
        self.rank, self.count = fabric.global_rank, fabric.world_size

    def setup(self, model: nn.Module) -> nn.Module:
        return self._fabric.setup_module(model)

    def backward(self, loss: Tensor) -> None:
        self._fabric.backward(loss)

    def mean(self, value: Tensor) -> Tensor:
        return self._fabric.all_reduce(value.detach().clone(), reduce_op="mean")

    def agree(self, wanted: bool) -> bool:
        return bool(self._fabric.broadcast(wanted, src=0))

    def wait(self) -> None:
        self._fabric.barrier()


def launch(count: int, device: str) -> Processes:
    """Start the other processes of a run. Each runs the same command and calls this function too.

    Args:
        count: Processes in all; on a GPU each takes one.
        device: "cpu", "cuda" or "mps".

    Raises:
        ConfigError: If the count is below 1, or above 1 on a device that has no distributed training.
        MissingExtraError: If more than one is wanted and Lightning Fabric is not installed; one process needs nothing.
    """
    if count < 1:
        raise ConfigError(f"expected at least 1 process, got {count}")
    if count == 1:
        return ONE
    kind = device.split(":")[0]
    if kind not in ("cpu", "cuda"):
        raise ConfigError(f"expected cpu or cuda for {count} processes, got {device!r}")
    try:
        from lightning_fabric import Fabric  # pyright: ignore[reportMissingImports]
        from lightning_fabric.strategies.ddp import DDPStrategy  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise MissingExtraError(f"expected Lightning Fabric for {count} processes, which is not installed: pip install 'fretsaw[train]'") from error
    # Some of the decoder's parameters have no gradient in a step.
    fabric = Fabric(
        accelerator=kind, devices=count, strategy=DDPStrategy(find_unused_parameters=True, process_group_backend="gloo" if kind == "cpu" else "nccl")
    )
    fabric.launch()
    return FabricProcesses(fabric)


def shares(first: int, steps: int, batch: int, processes: Processes) -> list[list[int]]:
    """Return the numbers of the items that this process takes at each step from `first` on: together the processes take `batch` x count a step."""
    start = processes.rank * batch
    whole = batch * processes.count
    return [list(range(step * whole + start, step * whole + start + batch)) for step in range(first, steps)]


def device_of(processes: Processes, device: str) -> torch.device:
    """Return the device of this process: its own GPU where there are several."""
    return torch.device("cuda", processes.rank) if processes.count > 1 and device.startswith("cuda") else torch.device(device)
