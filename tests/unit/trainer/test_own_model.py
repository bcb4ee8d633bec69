"""Models of the user's own: found, built, tried out, and refused with a reason."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from bagpipe_hpc.config import ModelConfig
from bagpipe_hpc.errors import OwnModelError
from bagpipe_hpc.trainer.own_model import ModelInputs, build_own_model, title_of

INPUTS = ModelInputs(num_dense=3, tables={"site": 10, "ad": 20}, embedding_dim=4, seed=5)
NUM_COLUMNS = 3 + 2 * 4
MODULE = """
import torch
from torch import nn
from neighbour import COLUMNS

class Own(nn.Module):
    def __init__(self, hidden):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(COLUMNS, hidden), nn.Dropout(), nn.LazyLinear(1))

    def forward(self, dense, embedded):
        return self.layers(torch.cat([dense, embedded.flatten(1)], 1)).squeeze(1)

def build(inputs, hidden=6):
    return Own(hidden)

def fail(inputs):
    return nothing

def leave(inputs):
    raise SystemExit(75)

SIZE = 4
model = Own(2)
"""


class Own(nn.Module):
    """Linear, then whatever a test says."""

    def __init__(self, then: Callable[[torch.Tensor], Any] = lambda logits: logits.squeeze(1)) -> None:
        super().__init__()
        self.linear, self.then = nn.Linear(NUM_COLUMNS, 1), then

    def forward(self, dense: torch.Tensor, embedded: torch.Tensor) -> Any:
        return self.then(self.linear(torch.cat([dense, embedded.flatten(1)], dim=1)))


@pytest.fixture
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A working directory with modules in it."""
    (tmp_path / "own_module.py").write_text(MODULE)
    (tmp_path / "neighbour.py").write_text(f"COLUMNS = {NUM_COLUMNS}\n")
    (tmp_path / "broken.py").write_text("import nowhere.to_be_found\n")
    (tmp_path / "malformed.py").write_text("def build(:\n")
    monkeypatch.chdir(tmp_path)
    before = list(sys.path)
    yield tmp_path
    assert sys.path == before
    for name in ("own_module", "neighbour"):
        sys.modules.pop(name, None)


def build(factory: str = "own_module:build", **arguments: Any) -> nn.Module:
    return build_own_model(ModelConfig(factory=factory, arguments=arguments), INPUTS)


def given(factory: Callable[..., Any]) -> nn.Module:
    return build_own_model(ModelConfig(factory="own:model"), INPUTS, factory)


def refusal(make: Callable[[], object]) -> str:
    with pytest.raises(OwnModelError) as error:
        make()
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.usefixtures("directory")
def test_modules_are_found_in_the_working_directory() -> None:
    model = build(hidden=7)
    shapes = {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
    assert shapes["layers.0.weight"] == (7, NUM_COLUMNS)
    assert shapes["layers.2.weight"] == (1, 7)  # made by the first forward
    assert model.training


@pytest.mark.usefixtures("directory")
def test_parameters_depend_on_the_seed_alone() -> None:
    first = build()
    torch.rand(3)
    second = build()
    for mine, other in zip(first.parameters(), second.parameters(), strict=True):
        assert mine.equal(other)


def test_the_inputs_are_what_the_model_is_called_with() -> None:
    seen = []

    def factory(inputs: ModelInputs) -> nn.Module:
        seen.append(inputs)
        return Own()

    given(factory)
    assert seen == [INPUTS]


@pytest.mark.parametrize(
    ("factory", "parts"),
    [
        ("nowhere:build", ["there is no module 'nowhere' in ", "or add that directory to PYTHONPATH"]),
        ("own_module.part:build", ["there is no module 'own_module.part' in "]),
        ("broken:build", ["importing broken failed: ModuleNotFoundError", "'nowhere'", "broken.py, line 1"]),
        ("malformed:build", ["importing malformed failed: SyntaxError", "malformed.py, line 1"]),
        ("own_module:make", ["own_module.py has no 'make'; callable in it: Own, build, fail"]),
        ("own_module:SIZE", ["is a int, but must be a function"]),
        ("own_module:model", ["is a Own, but must be a function", "every trainer builds its own"]),
        ("own_module:leave", ["failed: SystemExit: 75", "own_module.py, line ", "in leave"]),
        ("own_module:fail", ["failed: NameError: name 'nothing' is not defined", "own_module.py, line 18, in fail"]),
    ],
)
@pytest.mark.usefixtures("directory")
def test_what_cannot_be_found_or_fails_is_explained(factory: str, parts: list[str]) -> None:
    message = refusal(lambda: build(factory))
    assert [part for part in [f"model.factory = {factory!r}", *parts] if part not in message] == [], message


@pytest.mark.usefixtures("directory")
def test_arguments_that_it_does_not_take() -> None:
    assert "unexpected keyword argument 'depth'" in refusal(lambda: build(depth=3))


@pytest.mark.parametrize(
    ("then", "parts"),
    [
        (lambda logits: logits, ["returned torch.float32 (2, 1)", "one logit per sample", ".squeeze(1)"]),
        (lambda logits: logits.squeeze(1).double(), ["returned torch.float64 (2,)"]),
        (lambda logits: logits.squeeze(), ["dense (1, 3) and embedded (1, 2, 4)", "returned torch.float32 ()"]),
        (lambda logits: logits.detach().tolist(), ["returned a list"]),
        (
            lambda logits: logits @ logits,
            ["its model failed on dense (2, 3)", "test_own_model.py, line "],
        ),
    ],
    ids=["column", "float64", "scalar", "list", "failure"],
)
def test_logits_must_be_one_per_sample(then: Callable[[torch.Tensor], Any], parts: list[str]) -> None:
    message = refusal(lambda: given(lambda _: Own(then)))
    assert [part for part in parts if part not in message] == [], message


def test_what_changes_must_be_a_parameter() -> None:
    norm = nn.BatchNorm1d(1)
    message = refusal(lambda: given(lambda _: Own(nn.Sequential(norm, nn.Flatten(0)))))
    assert "changes the buffer then.0.running_mean while it trains" in message
    given(lambda _: Own(nn.Sequential(nn.LayerNorm(1), nn.Flatten(0))))


def test_parameters_must_be_float32_on_the_host() -> None:
    def model(change: Callable[[nn.Module], nn.Module]) -> nn.Module:
        model = Own()
        model.spare = change(nn.Linear(2, 2))
        return model

    message = refusal(lambda: given(lambda _: model(nn.Module.double)))
    assert "its parameter spare.weight is torch.float64 on cpu, but must be torch.float32" in message
    message = refusal(lambda: given(lambda _: model(partial(nn.Module.to, device="meta"))))
    assert "spare.weight is torch.float32 on meta" in message


def test_something_must_be_there_to_train() -> None:
    assert "no parameter to train; add one" in refusal(lambda: given(lambda _: Own().requires_grad_(False)))


@pytest.mark.parametrize("made", [None, {}, Own])
def test_a_factory_returns_a_module(made: object) -> None:
    assert "must return a torch.nn.Module" in refusal(lambda: given(lambda _: made))


def test_titles_of_functions() -> None:
    assert title_of(Own) == f"{__name__}:Own"
    assert title_of(partial(Own)) == "functools:partial"
    assert "build_model is a Own, but must be a function" in refusal(lambda: title_of(Own()))
    assert "build_model is a int" in refusal(lambda: title_of(3))
