-- One row per project: what its writers lock, and which change was the last.
CREATE TABLE IF NOT EXISTS thali_projects (
    project_id VARCHAR(255) NOT NULL PRIMARY KEY,
    -- Grows with every change.
    revision   BIGINT NOT NULL,
    -- The number of the newest entry of the history; it outlives entries that were dropped.
    entries    BIGINT NOT NULL,
    -- A UUID of the last change, by which one knows whether a commit that broke off was kept.
    writer     VARCHAR(36) NOT NULL
) DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;
-- Who changed what. Entries that are large lie in several parts.
CREATE TABLE IF NOT EXISTS thali_history (
    project_id VARCHAR(255) NOT NULL,
    number     BIGINT NOT NULL,
    part       INTEGER NOT NULL,
    -- Microseconds since 1970.
    at         BIGINT NOT NULL,
    author     TEXT NOT NULL,
    action     TEXT NOT NULL,
    -- thali.registry.HistoryEntry
    entry      LONGBLOB NOT NULL,
    PRIMARY KEY (project_id, number, part)
) DEFAULT CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;
