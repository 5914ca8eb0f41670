-- +goose Up
-- What tells this state directory from others: a random word, made once.
CREATE TABLE identity (
    one  INTEGER PRIMARY KEY CHECK (one = 1),
    name TEXT NOT NULL
) STRICT;

-- +goose Down
DROP TABLE identity;
