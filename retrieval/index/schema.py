"""The tables of an index, in SQLite."""

from __future__ import annotations

CODES_TABLE = "CREATE TABLE IF NOT EXISTS codes (sha256 TEXT NOT NULL)"
"""The checksum of the file of codes; databases of earlier versions lack it until codes are kept."""

SCHEMA = f"""
{CODES_TABLE};
CREATE TABLE documents (
    id INTEGER PRIMARY KEY, source TEXT NOT NULL UNIQUE, title TEXT NOT NULL,
    digest TEXT NOT NULL, metadata TEXT NOT NULL
);
CREATE TABLE passages (  -- id is the row of its vector
    id INTEGER PRIMARY KEY, key TEXT NOT NULL UNIQUE, document INTEGER NOT NULL REFERENCES documents (id),
    heading TEXT NOT NULL, text TEXT NOT NULL,
    first INTEGER NOT NULL, last INTEGER NOT NULL, body_start INTEGER NOT NULL, page INTEGER
);
CREATE TABLE facts (  -- what can be filtered for
    key TEXT NOT NULL, value NOT NULL, document INTEGER NOT NULL REFERENCES documents (id),
    PRIMARY KEY (key, value, document)
) WITHOUT ROWID;
CREATE INDEX facts_of_document ON facts (document);
CREATE INDEX passages_of_document ON passages (document);
CREATE VIRTUAL TABLE words USING fts5 (
    title, heading, body, content = '', tokenize = 'porter unicode61 remove_diacritics 2'
);
CREATE TABLE vocabulary (word TEXT PRIMARY KEY) WITHOUT ROWID;  -- as they are written; the keyword index has stems
CREATE TABLE removed (row INTEGER PRIMARY KEY, change INTEGER NOT NULL);  -- vectors that belong to no passage any more
CREATE INDEX removed_in_change ON removed (change);
CREATE TABLE appended (  -- which vectors are committed, and what they must add up to
    first INTEGER PRIMARY KEY, count INTEGER NOT NULL, crc32 INTEGER NOT NULL
);
CREATE TABLE state (change INTEGER NOT NULL, center BLOB);
INSERT INTO state VALUES (0, NULL);
"""
