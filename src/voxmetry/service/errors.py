"""What the service refuses, and the HTTP status of each refusal."""

from __future__ import annotations

from voxmetry.errors import ConfigError, InferenceError, InputError, ModelError, OutputError, VoxmetryError


class QueueFullError(VoxmetryError):
    """The service takes no further job now."""


class NoRoomError(OutputError):
    """The disk of the service has too little room."""


class DamagedRecordError(OutputError):
    """A record of the service is damaged: nothing that a caller sent is wrong."""


class NotFoundError(InputError):
    """There is no such job, image, label or file."""


class TooLargeError(InputError):
    """What is sent is larger, or more, than the service takes."""


class TooSlowError(InputError):
    """What is sent does not arrive in time."""


class DeniedError(VoxmetryError):
    """The caller is not known, or may not do this from where it is."""


class BusyError(VoxmetryError):
    """What is asked for cannot be had now, as it is under way or not over."""


_STATUS: tuple[tuple[type[VoxmetryError], int], ...] = (
    (QueueFullError, 429),
    (NoRoomError, 507),
    (NotFoundError, 404),
    (TooLargeError, 413),
    (TooSlowError, 408),
    (DeniedError, 403),
    (BusyError, 409),
    (DamagedRecordError, 500),
    (OutputError, 507),
    (ConfigError, 422),
    (InputError, 422),
    (ModelError, 500),
    (InferenceError, 500),
)


def status_of(error: VoxmetryError) -> int:
    """Return the HTTP status of a refusal.

    Examples
    --------
    >>> status_of(TooLargeError(found="5 GB", expected="4 GB", fix="send less"))
    413
    """
    return next((status for kind, status in _STATUS if isinstance(error, kind)), 500)


def not_found(what: str, fix: str) -> NotFoundError:
    """Return the refusal of something that is not there."""
    return NotFoundError(found=f"no such {what}", expected=f"a {what} of this service", fix=fix)
