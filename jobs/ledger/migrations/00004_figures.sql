-- +goose Up
-- What an instance said of its sessions and licenses the last time it was asked.
CREATE TABLE figures (
    instance TEXT PRIMARY KEY,
    taken    INTEGER NOT NULL,
    sessions INTEGER NOT NULL,
    ours     INTEGER NOT NULL,
    licenses INTEGER NOT NULL,
    findings INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- +goose Down
DROP TABLE figures;
