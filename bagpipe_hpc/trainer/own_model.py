"""A model of the user's own: found by name, built from what it will be fed, tried out before any work.

Whatever is imported and called here was named by the user, on the command line, in a configuration or in a program;
never by a checkpoint (launch/resume.py).
"""

from __future__ import annotations

import importlib
import os
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import torch

from bagpipe_hpc.config import Config, ModelConfig
from bagpipe_hpc.data.schema import Schema
from bagpipe_hpc.digest import ModelDigest
from bagpipe_hpc.errors import OwnModelError
from bagpipe_hpc.trainer.dense_gradients import dense_parameters

Model = torch.nn.Module
ModelFactory = Callable[..., Model]

# Where the user's own mistakes are not.
_LIBRARIES = ("<frozen", *(str(Path(file).parent) for file in (torch.__file__, importlib.__file__, __file__)))


@dataclass(frozen=True)
class ModelInputs:
    """What a model will be called with: dense float32 (b, num_dense), embedded float32 (b, len(tables), embedding_dim).

    It returns logits, float32 (b,). b may be any number from 1 on.

    Args:
        num_dense: Dense features; may be 0.
        tables: Rows of each table by its name, in the order of embedded.
        embedding_dim: Columns of an embedding.
        seed: training.seed, with which torch's generator has been seeded.
    """

    num_dense: int
    tables: Mapping[str, int]
    embedding_dim: int
    seed: int


def digest_of_parameters(model: Model) -> bytes:
    """Return a digest of all parameters, for `require_equal_parameters`."""
    digest = ModelDigest()
    digest.add_dense(dense_parameters(model))
    return digest.hexdigest().encode()


def require_equal_parameters(digests: Sequence[bytes], trainer: int, factory: str) -> None:
    """Raise OwnModelError if a trainer has built another model than trainer 0.

    Args:
        digests: Of all trainers' models.
        trainer: The trainer.
        factory: What made the models, for the message.
    """
    if digests[trainer] != digests[0]:
        raise OwnModelError(
            f"model.factory = {factory!r} made other parameters here than at trainer 0: initialise them from torch's "
            "generator, which has been seeded, and not from numpy's, time, the rank or the order of a set"
        )


def model_inputs(config: Config, schema: Schema) -> ModelInputs:
    """What a job's model will be called with."""
    tables = {table.name: table.num_embeddings for table in schema.tables}
    return ModelInputs(schema.num_dense, tables, config.model.row_dim, config.training.seed)


def build_own_model(config: ModelConfig, inputs: ModelInputs, factory: ModelFactory | None = None) -> Model:
    """Call the factory and see that its model can be trained. Seeds torch's generator.

    Args:
        factory: None: the one that config.factory names.
    Raises:
        OwnModelError: names what was found, what is needed, and where the user's code failed.
    """
    title = f"model.factory = {config.title!r}"
    with _working_directory_on_path():
        if factory is None:
            factory = _find_factory(config.title)
        torch.manual_seed(inputs.seed)
        with _explained(f"{title} failed"):
            model = factory(inputs, **config.arguments)
        if not isinstance(model, Model):
            raise OwnModelError(f"{title} returned a {type(model).__name__}, but must return a torch.nn.Module")
        _try_out(model, inputs, title)
    _check_parameters(model, title)
    return model


def title_of(factory: object) -> str:
    """`module:function` of a function; a script counts as the module that it is a file of.

    Raises:
        OwnModelError: it is none.
    """
    _require_function(factory, "build_model")
    module = getattr(factory, "__module__", type(factory).__module__)
    if module == "__main__":
        module = Path(getattr(sys.modules["__main__"], "__file__", None) or "__main__").stem
    return f"{module}:{getattr(factory, '__qualname__', type(factory).__qualname__)}"


def _find_factory(name: str) -> ModelFactory:
    """The function that `module:function` names."""
    module_name, _, function_name = name.partition(":")
    title = f"model.factory = {name!r}"
    try:
        with _explained(f"{title}: importing {module_name} failed"):
            module = importlib.import_module(module_name)
    except OwnModelError as error:
        missing = error.__cause__.name if isinstance(error.__cause__, ModuleNotFoundError) else None
        if missing is not None and f"{module_name}.".startswith(f"{missing}."):
            raise OwnModelError(
                f"{title}: there is no module {missing!r} in {os.getcwd()} or on Python's path; start the job in its "
                "directory, or name that in PYTHONPATH"
            ) from None
        raise
    functions = sorted(key for key, value in vars(module).items() if callable(value) and not key.startswith("_"))
    factory = getattr(module, function_name, None)
    if factory is None:
        raise OwnModelError(
            f"{title}: {module.__file__} has no {function_name!r}; callable in it: {', '.join(functions) or 'nothing'}"
        )
    return _require_function(factory, title)


def _require_function(factory: Any, title: str) -> ModelFactory:
    if isinstance(factory, Model) or not callable(factory):
        raise OwnModelError(
            f"{title} is a {type(factory).__name__}, but must be a function that takes ModelInputs and returns a "
            "torch.nn.Module: every trainer builds its own, from the same seed"
        )
    function: ModelFactory = factory
    return function


def _check_parameters(model: Model, title: str) -> None:
    for name, parameter in model.named_parameters():
        if parameter.dtype != torch.float32 or parameter.device.type != "cpu":
            raise OwnModelError(
                f"{title}: its parameter {name} is {parameter.dtype} on {parameter.device}, but must be torch.float32 "
                "on cpu; each trainer moves its model to its own device (and training.precision sets that of forward "
                "and backward)"
            )
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise OwnModelError(
            f"{title}: its model has no parameter to train; add one, such as a bias: "
            "self.bias = torch.nn.Parameter(torch.zeros(1))"
        )


def _try_out(model: Model, inputs: ModelInputs, title: str) -> None:
    """Two samples, and one: parameters that are made by the first forward are there afterwards."""
    for num_samples in (2, 1):
        dense = torch.zeros(num_samples, inputs.num_dense)
        embedded = torch.zeros(num_samples, len(inputs.tables), inputs.embedding_dim)
        called = f"dense {tuple(dense.shape)} and embedded {tuple(embedded.shape)}"
        with _explained(f"{title}: its model failed on {called}"), torch.no_grad():
            before = {name: buffer.clone() for name, buffer in model.named_buffers()}
            logits = model(dense, embedded)
            changed = [name for name, buffer in model.named_buffers() if not buffer.equal(before[name])]
        if not isinstance(logits, torch.Tensor) or (logits.shape, logits.dtype) != ((num_samples,), torch.float32):
            raise OwnModelError(
                f"{title}: for {called} its model returned {_described(logits)}, but must return one logit per sample: "
                f"torch.float32 ({num_samples},), from (b, 1) by .squeeze(1)"
            )
        if changed:
            raise OwnModelError(
                f"{title}: its model changes the buffer {changed[0]} while it trains, and nothing but parameters is "
                "kept equal on all trainers and saved; batch normalisation does that: take LayerNorm, or "
                "track_running_stats=False"
            )


def _described(value: object) -> str:
    return f"{value.dtype} {tuple(value.shape)}" if isinstance(value, torch.Tensor) else f"a {type(value).__name__}"


@contextmanager
def _explained(what: str) -> Iterator[None]:
    """Errors of the user's code become one line that says where in it they happened."""
    try:
        yield
    except OwnModelError:
        raise
    except Exception as error:
        _fail(what, error)


def _fail(what: str, error: Exception) -> NoReturn:
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if not frame.filename.startswith(_LIBRARIES)]
    where = f" ({own[-1].filename}, line {own[-1].lineno}, in {own[-1].name})" if own else ""
    raise OwnModelError(f"{what}: {type(error).__name__}: {' '.join(str(error).split())}{where}; mend it") from error


@contextmanager
def _working_directory_on_path() -> Iterator[None]:
    """As for a script that lies there."""
    directory = os.getcwd()
    sys.path.insert(0, directory)
    try:
        yield
    finally:
        with suppress(ValueError):
            sys.path.remove(directory)
