"""All errors that users can meet. A message says what was given, what is allowed and what to do."""

from __future__ import annotations


class BagpipeError(Exception):
    """Base class of all errors that users can fix. They are shown without a traceback."""


class ConfigError(BagpipeError):
    """A setting is unknown or malformed, or contradicts another setting."""


class TopologyError(BagpipeError):
    """The number of ranks does not fit the requested roles."""


class DatasetError(BagpipeError):
    """A data set, one of its shards, or an input file of an importer is missing, foreign, damaged or out of range."""


class OwnModelError(BagpipeError):
    """A model or a training loop of the user cannot be found, fails, or does not do what it must."""


class CacheTooSmallError(BagpipeError):
    """The rows that must be resident at once do not fit into `cache.rows`."""


class TableFullError(BagpipeError):
    """A dynamic table has no row left for a new id."""


class ProtocolError(BagpipeError):
    """A message between ranks is damaged, or comes from another version of this package."""


class CheckpointError(BagpipeError):
    """A checkpoint is missing, damaged, foreign, contradicts the job, or cannot be written."""


class FencedError(CheckpointError):
    """A later start of the job has taken over the run directory or the checkpoint directory, so this one must stop."""


class RunDirectoryError(BagpipeError):
    """Another job uses a run directory, or it was deleted while its job ran."""


class PlatformError(BagpipeError):
    """MPI, Horovod or a device cannot be used in the present set-up."""


class DeviceMemoryError(BagpipeError):
    """The memory of the device of a trainer does not suffice."""


class ExecutionError(BagpipeError):
    """The model cannot be compiled or recorded, as the setting training.execution asks."""


class DivergedError(BagpipeError):
    """The loss, a parameter, a row or a prediction is no longer finite."""


class JobStopped(BagpipeError):  # noqa: N818
    """The job has stopped after a checkpoint because a signal or its time limit asked for it. This is not a failure."""


class TraceError(BagpipeError):
    """A trace is missing or not written by a job, or the chosen iterations are invalid."""
