"""The messages from ranks to the oracle while a job runs. The inbox of the oracle yields them (`inbox.py`)."""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bagpipe_hpc.errors import ProtocolError

Float32Array = NDArray[np.float32]

_KIND = struct.Struct("<B7x")
_LOSS = struct.Struct("<qdq")
_TRAINER = struct.Struct("<q")
_LOSS_KIND, _PREDICTIONS_KIND, _FILES_SAVED_KIND, _STOP_KIND, _FIGURES_KIND = range(5)


@dataclass(frozen=True)
class Loss:
    """The loss of a training iteration that trainer 0 has ended.

    Args:
        num_trained: Training iterations of the whole job up to and including this one.
        loss: The mean loss over the global batch.
        num_samples: The number of samples of the global batch.
    """

    num_trained: int
    loss: float
    num_samples: int


@dataclass(frozen=True)
class Predictions:
    """The predictions of a trainer for its share of the first plan of an evaluation that it has not answered.

    Args:
        trainer: The rank of the trainer among the trainers.
        logits: float32, shape (num_samples,), one per sample of the share.
    """

    trainer: int
    logits: Float32Array


@dataclass(frozen=True)
class SavedFile:
    """A file of a checkpoint that a rank has written.

    Args:
        name: The name of the file in the checkpoint.
        num_bytes: Its size.
        sha256: The checksum of its content, in hexadecimal digits.
    """

    name: str
    num_bytes: int
    sha256: str


@dataclass(frozen=True)
class FilesSaved:
    """The report of a server or a trainer that it has written its files of a checkpoint.

    Args:
        num_trained: The training iterations of the whole job up to the checkpoint.
        files: The files that the rank has written.
        num_rows: The number of rows in these files.
        stall_seconds: How long the rank stood still for the checkpoint.
        fault: Why the checkpoint must not be committed; empty if nothing is wrong.
    """

    num_trained: int
    files: tuple[SavedFile, ...]
    num_rows: int
    stall_seconds: float
    fault: str = ""


@dataclass(frozen=True)
class StopRequest:
    """The request of a rank to stop the job at the next boundary.

    Args:
        reason: The reason, which the oracle shows.
    """

    reason: str


@dataclass(frozen=True)
class RankFigures:
    """What a server or a trainer has counted since its start; `figure_schedule.py` says when. One more is the last.

    Args:
        rank: Its rank in the world of the job.
        counts: JSON values by name.
    """

    rank: int
    counts: Mapping[str, Any]


Message = Loss | Predictions | FilesSaved | StopRequest | RankFigures


def encode_message(message: Message) -> bytes:
    """Return a message as bytes."""
    match message:
        case Loss():
            return _KIND.pack(_LOSS_KIND) + _LOSS.pack(message.num_trained, message.loss, message.num_samples)
        case Predictions():
            head = _KIND.pack(_PREDICTIONS_KIND) + _TRAINER.pack(message.trainer)
            return head + np.ascontiguousarray(message.logits, dtype="<f4").tobytes()
        case FilesSaved():
            files = [vars(file) for file in message.files]
            return _KIND.pack(_FILES_SAVED_KIND) + json.dumps({**vars(message), "files": files}).encode()
        case StopRequest():
            return _KIND.pack(_STOP_KIND) + message.reason.encode()
        case RankFigures():
            return _KIND.pack(_FIGURES_KIND) + json.dumps(vars(message)).encode()


def decode_message(content: bytes) -> Message:
    """Return the message that `encode_message` has turned into bytes.

    Raises:
        ProtocolError: the content is damaged, or from another version of bagpipe_hpc.
    """
    try:
        (kind,) = _KIND.unpack_from(content)
        body = memoryview(content)[_KIND.size :]
        if kind == _LOSS_KIND:
            return Loss(*_LOSS.unpack(body))
        if kind == _PREDICTIONS_KIND:
            (trainer,) = _TRAINER.unpack_from(body)
            return Predictions(trainer, np.frombuffer(body, dtype="<f4", offset=_TRAINER.size))
        if kind == _FILES_SAVED_KIND:
            fields = json.loads(bytes(body))
            return FilesSaved(**{**fields, "files": tuple(SavedFile(**file) for file in fields["files"])})
        if kind == _STOP_KIND:
            return StopRequest(str(body, "utf-8"))
        if kind == _FIGURES_KIND:
            return RankFigures(**json.loads(bytes(body)))
    except (struct.error, ValueError, TypeError, KeyError) as error:
        raise ProtocolError(f"a message to the oracle is damaged: {error}") from None
    raise ProtocolError(f"a message to the oracle is of kind {kind}: do all ranks run the same bagpipe_hpc?")
