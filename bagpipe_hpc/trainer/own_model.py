"""The user's own model: its factory is found by name and called, and the model is tried out before the job starts.

This module imports and calls only what the user names on the command line, in a configuration or in a program. It never
imports what a checkpoint names (launch/resume.py).
"""

from __future__ import annotations

import importlib
import os
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch.nn import functional

from bagpipe_hpc.config import Config, ModelConfig
from bagpipe_hpc.data.schema import Schema
from bagpipe_hpc.digest import ModelDigest
from bagpipe_hpc.errors import OwnModelError
from bagpipe_hpc.trainer.dense_gradients import dense_parameters
from bagpipe_hpc.trainer.feature_inputs import sequences_of, vectors_of
from bagpipe_hpc.trainer.jagged_sequence import JaggedSequence

Model = torch.nn.Module
ModelFactory = Callable[..., Model]

# Files that are not the user's: a message about an error does not point to them.
_LIBRARIES = ("<frozen", *(str(Path(file).parent) for file in (torch.__file__, importlib.__file__, __file__)))


@dataclass(frozen=True)
class ModelInputs:
    """The shapes of the inputs of a model, which its factory gets.

    The model is called with dense, float32, shape (b, num_dense), and embedded, float32, shape (b, len(tables),
    embedding_dim). If the data set has sequences that are not pooled, it gets them as a third argument: JaggedSequences
    by name. It returns logits, float32, shape (b,), or (b, len(labels)) if there are several labels. b may be any
    number from 1 on.

    Args:
        num_dense: The number of dense features; may be 0.
        tables: The number of rows of each feature's table by name, in the order of embedded.
        embedding_dim: The number of columns of an embedding.
        seed: The setting training.seed. The generator of torch has been seeded with it.
        labels: The names of the labels, in the order of the logits.
        sequences: The number of rows of the table of each sequence by name.
        elements: The names of the values of each sequence's elements, (real ones, integer ones), by sequence.
    """

    num_dense: int
    tables: Mapping[str, int]
    embedding_dim: int
    seed: int
    labels: Sequence[str] = ("label",)
    sequences: Mapping[str, int] = field(default_factory=dict)
    elements: Mapping[str, tuple[Sequence[str], Sequence[str]]] = field(default_factory=dict)


def digest_of_parameters(model: Model) -> bytes:
    """Return a digest of all parameters, for `require_equal_parameters`."""
    digest = ModelDigest()
    digest.add_dense(dense_parameters(model))
    return digest.hexdigest().encode()


def require_equal_parameters(digests: Sequence[bytes], trainer: int, factory: str) -> None:
    """Check that a trainer has built the same model as trainer 0.

    Args:
        digests: The digests of the models of all trainers, by trainer rank.
        trainer: The rank of the trainer.
        factory: The name of the factory, for the message.
    Raises:
        OwnModelError: the models differ.
    """
    if digests[trainer] != digests[0]:
        raise OwnModelError(
            f"model.factory = {factory!r} made other parameters here than at trainer 0: initialise them from torch's "
            "generator, which has been seeded, and not from numpy's, time, the rank or the order of a set"
        )


def model_inputs(config: Config, schema: Schema) -> ModelInputs:
    """Return the shapes of the inputs of a job's model."""
    tables = {table.name: table.num_embeddings for table in vectors_of(config, schema)}
    labels = tuple(label.name for label in schema.labels)
    sequences = {table.name: table.num_embeddings for table in sequences_of(config, schema)}
    elements = {table.name: table.element_names for table in sequences_of(config, schema)}
    return ModelInputs(
        schema.num_dense, tables, config.model.row_dim, config.training.seed, labels, sequences, elements
    )


def build_own_model(config: ModelConfig, inputs: ModelInputs, factory: ModelFactory | None = None) -> Model:
    """Seed the generator of torch, call the factory, and check that its model can be trained.

    Args:
        config: The settings of the model.
        inputs: The shapes of the inputs of the model.
        factory: The factory. None: `config.factory` names it.
    Raises:
        OwnModelError: the factory cannot be found or fails, or its model cannot be trained. The message says what was
            found, what is needed, and where the user's code failed.
    Communication: none.
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
    """Return the name `module:function` of a factory. The file name of a script serves as the name of its module.

    Raises:
        OwnModelError: the factory is not a function.
    """
    _require_function(factory, "build_model")
    module = getattr(factory, "__module__", type(factory).__module__)
    if module == "__main__":
        module = Path(getattr(sys.modules["__main__"], "__file__", None) or "__main__").stem
    return f"{module}:{getattr(factory, '__qualname__', type(factory).__qualname__)}"


def _find_factory(name: str) -> ModelFactory:
    """Return the function that `module:function` names."""
    module_name, _, function_name = name.partition(":")
    title = f"model.factory = {name!r}"
    try:
        with _explained(f"{title}: importing {module_name} failed"):
            module = importlib.import_module(module_name)
    except OwnModelError as error:
        missing = error.__cause__.name if isinstance(error.__cause__, ModuleNotFoundError) else None
        if missing is not None and f"{module_name}.".startswith(f"{missing}."):
            raise OwnModelError(
                f"{title}: there is no module {missing!r} in {os.getcwd()} or on Python's path; start the job in the "
                "directory of the module, or add that directory to PYTHONPATH"
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
        if parameter.dtype != torch.float32 or not parameter.is_cpu:
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
    """Call the model with two samples and with one. A model may make its parameters in the first of these calls."""
    for num_samples in (2, 1):
        dense = torch.zeros(num_samples, inputs.num_dense)
        embedded = torch.zeros(num_samples, len(inputs.tables), inputs.embedding_dim)
        called = f"dense {tuple(dense.shape)} and embedded {tuple(embedded.shape)}"
        arguments: list[Any] = [dense, embedded]
        if inputs.sequences:
            arguments.append(sequences := _sequences(inputs, num_samples))
            called += f", {', '.join(sequences)} with {3 * num_samples - 3} elements"
        third = " (sequences are its third argument)" if inputs.sequences else ""
        with _explained(f"{title}: its model failed on {called}{third}"), torch.no_grad():
            before = {name: buffer.clone() for name, buffer in model.named_buffers()}
            logits = model(*arguments)
            changed = [name for name, buffer in model.named_buffers() if not buffer.equal(before[name])]
        shape = (num_samples,) if len(inputs.labels) == 1 else (num_samples, len(inputs.labels))
        if not isinstance(logits, torch.Tensor) or (logits.shape, logits.dtype) != (shape, torch.float32):
            each = "sample" if len(shape) == 1 else f"sample and label ({', '.join(inputs.labels)})"
            hint = "; .squeeze(1) removes the last dimension of a shape (b, 1)" if len(shape) == 1 else ""
            raise OwnModelError(
                f"{title}: for {called} its model returned {_described(logits)}, but must return one logit per {each}: "
                f"torch.float32 {shape}{hint}"
            )
        if changed:
            raise OwnModelError(
                f"{title}: its model changes the buffer {changed[0]} while it trains, but only parameters are kept "
                "equal on all trainers and saved; if this is batch normalisation, use LayerNorm or "
                "track_running_stats=False instead"
            )


def _sequences(inputs: ModelInputs, num_samples: int) -> dict[str, JaggedSequence]:
    """Return sequences of 0 elements for the first sample, and of 3 for each other one."""
    lengths = torch.full((num_samples,), 3)
    lengths[0] = 0
    offsets, num_elements = functional.pad(lengths.cumsum(0), (1, 0)), 3 * num_samples - 3
    found = {}
    for name in inputs.sequences:
        reals, integers = inputs.elements[name]
        elements = {element: torch.zeros(num_elements) for element in reals}
        elements |= {element: torch.zeros(num_elements, dtype=torch.int64) for element in integers}
        embedded = torch.zeros(num_elements, inputs.embedding_dim)
        found[name] = JaggedSequence(embedded, offsets, lengths.numpy(), elements)
    return found


def _described(value: object) -> str:
    return f"{value.dtype} {tuple(value.shape)}" if isinstance(value, torch.Tensor) else f"a {type(value).__name__}"


@contextmanager
def _explained(what: str) -> Iterator[None]:
    """Turn an error of the user's code into an OwnModelError whose message says where in that code it happened."""
    try:
        yield
    except OwnModelError:
        raise
    except (Exception, SystemExit) as error:  # a factory must not choose the exit code of the job
        _fail(what, error)


def _fail(what: str, error: BaseException) -> NoReturn:
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame for frame in frames if not frame.filename.startswith(_LIBRARIES)]
    where = f" ({own[-1].filename}, line {own[-1].lineno}, in {own[-1].name})" if own else ""
    message = " ".join(str(error).split())
    raise OwnModelError(f"{what}: {type(error).__name__}: {message}{where}; mend this code") from error


@contextmanager
def _working_directory_on_path() -> Iterator[None]:
    """Let Python also import from the working directory inside the block, as it does for a script there."""
    directory = os.getcwd()
    sys.path.insert(0, directory)
    try:
        yield
    finally:
        with suppress(ValueError):
            sys.path.remove(directory)
