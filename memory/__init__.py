"""Keeps what was said; knows nothing of audio or documents."""

from .episodic import Episode, Record, SQLiteRecord
from .errors import RecordBusy, RecordCorrupt, RecordError

__all__ = ["Episode", "Record", "RecordBusy", "RecordCorrupt", "RecordError", "SQLiteRecord"]
