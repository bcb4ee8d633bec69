"""A local session whose loop does not come to its end."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from bagpipe_hpc.errors import OwnModelError
from bagpipe_hpc.launch.session import Session


class FakeTraining:
    """Yields batches without any job."""

    name = "trainer 0"

    def play(self, _: object) -> Iterator[SimpleNamespace]:
        for iteration in range(3):
            yield SimpleNamespace(iteration=iteration)


def local_session() -> Session:
    request: Any = SimpleNamespace(is_local=True)
    training: Any = FakeTraining()
    return Session(request, training)


def last_words(error: BaseException, capsys: pytest.CaptureFixture[str]) -> str:
    """What Python prints about an error that nothing catches; it ends with exit code 2."""
    with pytest.raises(SystemExit) as ended:
        sys.excepthook(type(error), error, None)
    assert ended.value.code == 2
    return capsys.readouterr().err


@pytest.fixture(autouse=True)
def _own_hook(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)


def test_a_loop_that_is_left_is_told_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    def leave() -> None:
        with local_session() as session:
            for _ in session:
                break

    with pytest.raises(OwnModelError, match="was left in iteration 0") as raised:
        leave()
    words = last_words(raised.value, capsys)
    assert words.startswith("bagpipe: error: the loop over the session was left in iteration 0")
    assert words.count("\n") == 1


def test_so_is_an_error_in_the_body_of_the_loop(capsys: pytest.CaptureFixture[str]) -> None:
    def fail() -> None:
        with local_session() as session:
            for _ in session:
                raise OwnModelError("on purpose")

    with pytest.raises(OwnModelError, match="on purpose") as raised:
        fail()
    assert last_words(raised.value, capsys) == "bagpipe: error: on purpose\n"


def test_errors_of_others_keep_their_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[BaseException] = []
    monkeypatch.setattr(sys, "excepthook", lambda _, error, __: seen.append(error))

    def fail() -> None:
        with local_session() as session:
            for _ in session:
                raise ValueError("on purpose")

    with pytest.raises(ValueError, match="on purpose") as raised:
        fail()
    sys.excepthook(ValueError, raised.value, None)
    assert seen == [raised.value]
