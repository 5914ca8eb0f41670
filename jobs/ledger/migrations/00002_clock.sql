-- +goose Up
-- What the clock knows of a job: up to which instant every tick is accounted for, under which schedule, and whether it is paused.
CREATE TABLE clocks (
    job       TEXT PRIMARY KEY,
    upto      INTEGER NOT NULL DEFAULT 0, -- µs since 1970, UTC; 0 = never looked at
    spec      TEXT NOT NULL DEFAULT '',   -- zone and cron text
    paused    INTEGER NOT NULL DEFAULT 0, -- since when; 0 = not paused
    paused_by TEXT NOT NULL DEFAULT '',
    why       TEXT NOT NULL DEFAULT ''
) STRICT;

-- One line per tick, or per stretch of missed ticks that met the same end (until > at).
CREATE TABLE ticks (
    job     TEXT NOT NULL,
    at      INTEGER NOT NULL,
    until   INTEGER NOT NULL,            -- the last tick of the stretch
    count   INTEGER NOT NULL DEFAULT 1,  -- ticks in it
    outcome TEXT NOT NULL,
    reason  TEXT NOT NULL DEFAULT '',
    run     TEXT NOT NULL DEFAULT '',
    process TEXT NOT NULL DEFAULT '',
    decided INTEGER NOT NULL,
    PRIMARY KEY (job, at)
) STRICT, WITHOUT ROWID;
CREATE INDEX ticks_open ON ticks (job, at) WHERE outcome IN ('waiting', 'running');
CREATE INDEX ticks_by_time ON ticks (at DESC);

-- What a run went through.
CREATE TABLE steps (
    run     TEXT NOT NULL,
    n       INTEGER NOT NULL,
    name    TEXT NOT NULL,
    attempt INTEGER NOT NULL DEFAULT 1,
    started INTEGER NOT NULL,
    ended   INTEGER NOT NULL DEFAULT 0,
    rows    INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (run, n)
) STRICT, WITHOUT ROWID;

-- Who may act on this file's behalf. fence grows with every new holder and never goes back.
CREATE TABLE locks (
    name    TEXT PRIMARY KEY,
    holder  TEXT NOT NULL,
    fence   INTEGER NOT NULL,
    expires INTEGER NOT NULL
) STRICT;

CREATE INDEX runs_by_start ON runs (started DESC, id DESC);

-- Each job's newest run and its newest one that published: what an overview of all jobs shows, without a step into runs.
CREATE TABLE latest (
    job               TEXT PRIMARY KEY,
    run               TEXT NOT NULL,
    state             TEXT NOT NULL,
    class             TEXT NOT NULL DEFAULT '',
    started           INTEGER NOT NULL,
    ended             INTEGER NOT NULL DEFAULT 0,
    published         TEXT NOT NULL DEFAULT '', -- id of a run; '' = none
    published_started INTEGER NOT NULL DEFAULT 0,
    published_ended   INTEGER NOT NULL DEFAULT 0,
    version           INTEGER NOT NULL DEFAULT -1,
    row_count         INTEGER NOT NULL DEFAULT 0,
    bytes             INTEGER NOT NULL DEFAULT 0
) STRICT, WITHOUT ROWID;

-- +goose StatementBegin
CREATE TRIGGER runs_began AFTER INSERT ON runs BEGIN
    INSERT INTO latest (job, run, state, class, started, ended) VALUES (new.job, new.id, new.state, new.class, new.started, new.ended)
    ON CONFLICT (job) DO UPDATE SET run = excluded.run, state = excluded.state, class = excluded.class, started = excluded.started, ended = excluded.ended
    WHERE excluded.started >= latest.started;
END;
-- +goose StatementEnd

-- +goose StatementBegin
CREATE TRIGGER runs_ended AFTER UPDATE ON runs BEGIN
    UPDATE latest SET state = new.state, class = new.class, ended = new.ended WHERE job = new.job AND run = new.id;
    UPDATE latest SET published = new.id, published_started = new.started, published_ended = new.ended, version = new.version, row_count = new.row_count, bytes = new.bytes
    WHERE job = new.job AND new.version >= 0 AND new.started >= published_started;
END;
-- +goose StatementEnd

INSERT INTO latest (job, run, state, class, started, ended)
SELECT job, id, state, class, max(started), ended FROM runs GROUP BY job;
UPDATE latest SET published = r.id, published_started = r.started, published_ended = r.ended, version = r.version, row_count = r.row_count, bytes = r.bytes
FROM (SELECT job, id, max(started) AS started, ended, version, row_count, bytes FROM runs WHERE version >= 0 GROUP BY job) r WHERE r.job = latest.job;

-- +goose Down
DROP TRIGGER runs_ended;
DROP TRIGGER runs_began;
DROP TABLE latest;
DROP INDEX runs_by_start;
DROP TABLE locks;
DROP TABLE steps;
DROP TABLE ticks;
DROP TABLE clocks;
