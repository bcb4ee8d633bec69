"""Every error a user can meet. A message says what was given, what is allowed, and what mends it."""

from __future__ import annotations


class BagpipeError(Exception):
    """Base of all errors that are the user's to mend; shown without a traceback."""


class ConfigError(BagpipeError):
    """A setting is unknown, malformed, or contradicts another."""


class TopologyError(BagpipeError):
    """The number of ranks does not fit the roles asked for."""


class DatasetError(BagpipeError):
    """A data set, one of its shards, or an input file of an importer is missing, foreign, damaged or out of range."""


class OwnModelError(BagpipeError):
    """A model or a training loop of the user's own cannot be found, fails, or does not do what it must."""


class CacheTooSmallError(BagpipeError):
    """The rows that must be resident at once do not fit into `cache.rows`."""


class ProtocolError(BagpipeError):
    """A message between ranks is damaged, or comes from another version of this package."""


class CheckpointError(BagpipeError):
    """A checkpoint is missing, damaged, foreign, contradicts the job, or cannot be written."""


class FencedError(CheckpointError):
    """A later start of the job took the run directory or the checkpoint directory over: this one must stop."""


class RunDirectoryError(BagpipeError):
    """A run directory is used by another job, or was deleted while its job ran."""


class PlatformError(BagpipeError):
    """MPI, Horovod or a device is not usable as it is set up."""


class DivergedError(BagpipeError):
    """The loss, a parameter, a row or a prediction is not finite any more."""


class JobStopped(BagpipeError):  # noqa: N818
    """The job was asked to stop, by a signal or its time limit, and did so. No error of anybody."""


class TraceError(BagpipeError):
    """A trace is missing or not one that a job wrote, or a choice of its iterations makes no sense."""
