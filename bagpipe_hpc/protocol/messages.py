"""What ranks tell the oracle while a job runs. The inbox of the oracle yields these messages (`inbox.py`)."""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bagpipe_hpc.errors import ProtocolError

Float32Array = NDArray[np.float32]

_KIND = struct.Struct("<B7x")
_LOSS = struct.Struct("<qdq")
_TRAINER = struct.Struct("<q")
_LOSS_KIND, _PREDICTIONS_KIND, _FILES_SAVED_KIND, _STOP_KIND = range(4)


@dataclass(frozen=True)
class Loss:
    """Trainer 0 has ended a training iteration.

    Args:
        num_trained: Training iterations of the whole job up to and including this one.
        loss: Mean loss over the global batch.
        num_samples: Samples of the global batch.
    """

    num_trained: int
    loss: float
    num_samples: int


@dataclass(frozen=True)
class Predictions:
    """A trainer has predicted its share of the next plan of an evaluation.

    Args:
        trainer: Rank among the trainers.
        logits: float32, shape (samples of the share,).
    """

    trainer: int
    logits: Float32Array


@dataclass(frozen=True)
class SavedFile:
    """A file of a checkpoint, as its writer left it."""

    name: str
    num_bytes: int
    sha256: str


@dataclass(frozen=True)
class FilesSaved:
    """A server or a trainer has written its files of a checkpoint.

    Args:
        num_trained: Training iterations that are part of the checkpoint.
        files: What was written.
        num_rows: Rows in those files.
        stall_seconds: How long the rank could not go on with its work because of the checkpoint.
        fault: Why there must be no such checkpoint; empty if nothing is wrong.
    """

    num_trained: int
    files: tuple[SavedFile, ...]
    num_rows: int
    stall_seconds: float
    fault: str = ""


@dataclass(frozen=True)
class StopRequest:
    """A rank asks the oracle to stop the job at the next possible iteration, for a reason that is shown."""

    reason: str


Message = Loss | Predictions | FilesSaved | StopRequest


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


def decode_message(content: bytes) -> Message:
    """Return the message that some bytes are.

    Raises:
        ProtocolError: they are none of this version.
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
    except (struct.error, ValueError, TypeError, KeyError) as error:
        raise ProtocolError(f"a message to the oracle is damaged: {error}") from None
    raise ProtocolError(f"a message to the oracle is of kind {kind}: do all ranks run the same bagpipe_hpc?")
