"""How the model runs in training, as the setting training.execution says: eagerly, compiled, or recorded.

A *pass* is a forward and a backward pass over one block of samples. Compiled code and recorded graphs serve passes of
one size each. So a trainer prepares the model for the sizes that full batches have, before it sizes its cache. Passes
of other sizes, such as those of the last batch of an epoch, run eagerly. Which way a pass takes depends on its size
alone, so it is the same in cached and synchronous jobs, and after a restart.

All ways use the parameters of the same module. Evaluations, checkpoints and a training loop that calls `session.model`
see that module and nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from itertools import pairwise

import torch

from bagpipe_hpc.activity import showing_activity
from bagpipe_hpc.config import Config
from bagpipe_hpc.data.schema import Schema
from bagpipe_hpc.errors import ExecutionError
from bagpipe_hpc.sharding import share_boundaries
from bagpipe_hpc.trainer.compiled_model import compiled_model
from bagpipe_hpc.trainer.device.base import Device, Forward
from bagpipe_hpc.trainer.device.recorded_model import RecordedModel
from bagpipe_hpc.trainer.feature_inputs import vectors_of
from bagpipe_hpc.waiting import waiting_for

Sample = tuple[torch.Tensor, torch.Tensor]
Prepare = Callable[[torch.Tensor, torch.Tensor], Forward]

WORDS = {"compiled": "compiling", "graph": "recording"}
MAX_MESSAGE = 500  # characters of an error of torch


class SizedForward:
    """Runs passes of some sizes by what was prepared for them, and all others by the module itself.

    A pass also runs by the module if a training loop has changed the mode of the module, or of one inside it, since it
    was prepared.

    Args:
        model: The module.
        prepared: What runs the model, by the number of samples.
    """

    def __init__(self, model: torch.nn.Module, prepared: Mapping[int, Forward]) -> None:
        self._model, self._prepared = model, prepared
        self._modules = list(model.modules())
        self._modes = self._modes_now()

    def __call__(self, dense: torch.Tensor, embedded: torch.Tensor) -> torch.Tensor:
        """Return the logits. The arguments are those of the model."""
        prepared = self._prepared.get(len(dense))
        if prepared is None or self._modes_now() != self._modes:
            logits: torch.Tensor = self._model(dense, embedded)
            return logits
        return prepared(dense, embedded)

    def _modes_now(self) -> list[bool]:
        return [module.training for module in self._modules]


def sizes_of_passes(config: Config, trainer_rank: int, num_trainers: int) -> list[int]:
    """Return how many samples the passes of a full batch have, in descending order.

    With training.blocks these are the sizes of the blocks of all trainers. Then a block runs in the same way at
    whichever trainer computes it, so the model does not depend on the number of trainers.

    Args:
        config: The settings of the job.
        trainer_rank: The rank of this trainer among the trainers.
        num_trainers: T.
    """
    num_blocks = config.training.blocks
    bounds = share_boundaries(config.training.batch_size, num_blocks or num_trainers)
    sizes = [stop - start for start, stop in pairwise(bounds)]
    return sorted({*(sizes if num_blocks else sizes[trainer_rank : trainer_rank + 1])} - {0}, reverse=True)


def prepare_forward(
    config: Config, schema: Schema, model: torch.nn.Module, device: Device, sizes: Sequence[int], *, shows: bool
) -> Forward:
    """Return what runs the model in training.

    The random numbers, the parameters and their gradients stay as they are.

    Args:
        config: The settings of the job.
        schema: The schema of the samples.
        model: The model, on the device.
        device: The device of the trainer.
        sizes: What `sizes_of_passes` returns.
        shows: Whether to show on standard error what goes on.
    Raises:
        ExecutionError: the model cannot be compiled or recorded.
    Communication: none.
    """
    execution = config.training.execution
    if execution == "eager":
        return model
    precision = partial(device.autocast, enabled=config.training.precision == "bfloat16")
    prepare = _compiling(model, precision) if execution == "compiled" else _recording(model, precision, device)
    prepared = {}
    with device.keeping_random_numbers():
        for size in sizes:
            inputs = _inputs(config, schema, device, size)
            with _explained(execution, size, shows=shows):
                prepared[size] = prepare(*inputs)
    return SizedForward(model, prepared)


def _compiling(model: torch.nn.Module, precision: Callable[[], AbstractContextManager[object]]) -> Prepare:
    compiled = compiled_model(model)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]

    def prepare(dense: torch.Tensor, embedded: torch.Tensor) -> Forward:
        with precision():
            logits = compiled(dense, embedded)
        # torch compiles the backward pass when it runs first. This call runs no hooks and sets no gradients.
        torch.autograd.grad(logits.float().sum(), [embedded, *trained], allow_unused=True)
        return compiled

    return prepare


def _recording(
    model: torch.nn.Module, precision: Callable[[], AbstractContextManager[object]], device: Device
) -> Prepare:
    def run(dense: torch.Tensor, embedded: torch.Tensor) -> torch.Tensor:
        with precision():  # inside of what is recorded, so that casts of parameters are recorded too
            logits: torch.Tensor = model(dense, embedded)
        return logits

    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return lambda dense, embedded: RecordedModel(device.recording(), run, trained, dense, embedded.detach())


def _inputs(config: Config, schema: Schema, device: Device, size: int) -> Sample:
    """Return inputs of the model that differ from those in training by their values only."""
    dense = torch.zeros(size, schema.num_dense, device=device.torch_device)
    embedded = torch.zeros(size, len(vectors_of(config, schema)), config.model.row_dim, device=device.torch_device)
    return dense, embedded.requires_grad_() * 1  # like the result of pooling, it is no leaf


@contextmanager
def _explained(execution: str, size: int, *, shows: bool) -> Iterator[None]:
    """Say what goes on in the block, and turn errors of torch into an ExecutionError."""
    phase = f"{WORDS[execution]} the model for {size:,} samples (training.execution={execution})"
    try:
        with showing_activity(phase) if shows else nullcontext(), waiting_for(f"torch: {phase}"):
            yield
    except (torch.OutOfMemoryError, ExecutionError):
        raise
    except Exception as error:
        said = " ".join(str(error).split())
        said = said if len(said) <= MAX_MESSAGE else f"{said[:MAX_MESSAGE]}..."
        raise ExecutionError(
            f"training.execution = {execution!r}: {WORDS[execution]} the model for {size:,} samples failed: "
            f"{type(error).__name__}: {said}; set training.execution to eager, or change the model"
        ) from error
