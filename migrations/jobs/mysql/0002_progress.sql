-- What else is known of a run, and whether somebody asked it to stop.
CREATE TABLE IF NOT EXISTS thali_progress (
    run_id VARCHAR(36) PRIMARY KEY,
    rows_resumed BIGINT NOT NULL DEFAULT 0,
    chunks BIGINT NOT NULL DEFAULT 0,
    cancel_requested BIGINT NOT NULL DEFAULT 0
) ENGINE = InnoDB CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;

-- How far the unfinished run of a view came, for the next one to go on from.
CREATE TABLE IF NOT EXISTS thali_checkpoints (
    project VARCHAR(255) NOT NULL,
    feature_view VARCHAR(255) NOT NULL,
    state LONGTEXT NOT NULL,
    PRIMARY KEY (project, feature_view)
) ENGINE = InnoDB CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;
