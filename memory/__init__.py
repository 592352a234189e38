"""The record of conversations; knows nothing of audio or documents."""

from .errors import RecordBusy, RecordCorrupt, RecordError
from .record import Episode, Record, SQLiteRecord

__all__ = ["Episode", "Record", "RecordBusy", "RecordCorrupt", "RecordError", "SQLiteRecord"]
