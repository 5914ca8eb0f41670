-- +goose Up
CREATE TABLE alerts (
    key  TEXT PRIMARY KEY,
    text TEXT NOT NULL,
    told INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- +goose Down
DROP TABLE alerts;
