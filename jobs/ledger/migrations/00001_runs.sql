-- +goose Up
CREATE TABLE runs (
    id          TEXT PRIMARY KEY,
    job         TEXT NOT NULL,
    table_name  TEXT NOT NULL,
    dataset     TEXT NOT NULL,
    state       TEXT NOT NULL,
    class       TEXT NOT NULL DEFAULT '',
    error       TEXT NOT NULL DEFAULT '',
    row_count   INTEGER NOT NULL DEFAULT 0,
    bytes       INTEGER NOT NULL DEFAULT 0,
    files       INTEGER NOT NULL DEFAULT 0,
    version     INTEGER NOT NULL,
    requests    INTEGER NOT NULL DEFAULT 0,
    attempts    INTEGER NOT NULL DEFAULT 0,
    fingerprint TEXT NOT NULL DEFAULT '',
    evidence    TEXT NOT NULL DEFAULT '',
    process     TEXT NOT NULL,
    started     INTEGER NOT NULL, -- µs since 1970, UTC
    ended       INTEGER NOT NULL DEFAULT 0
) STRICT;
CREATE INDEX runs_by_job ON runs (job, started DESC);
CREATE INDEX runs_by_state ON runs (state) WHERE state = 'running';

-- +goose Down
DROP TABLE runs;
