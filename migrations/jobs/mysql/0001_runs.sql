-- Runs of materializations and the leases they hold. Times are microseconds since 1970 UTC.
-- Names differ when their bytes differ, as in the other databases.
CREATE TABLE IF NOT EXISTS thali_runs (
    id VARCHAR(36) PRIMARY KEY,
    project VARCHAR(255) NOT NULL,
    feature_view VARCHAR(255) NOT NULL,
    kind VARCHAR(50) NOT NULL,
    "trigger" VARCHAR(50) NOT NULL,
    slot BIGINT,
    state VARCHAR(50) NOT NULL,
    window_start BIGINT,
    window_end BIGINT,
    started_at BIGINT NOT NULL,
    heartbeat_at BIGINT NOT NULL,
    ended_at BIGINT,
    rows_read BIGINT NOT NULL DEFAULT 0,
    rows_written BIGINT NOT NULL DEFAULT 0,
    error TEXT,
    -- One run per scheduled slot, whoever gets there first; runs without a slot do not meet.
    UNIQUE KEY thali_runs_slot (project, feature_view, slot),
    KEY thali_runs_started (project, started_at),
    KEY thali_runs_state (state, heartbeat_at)
) ENGINE = InnoDB CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;

CREATE TABLE IF NOT EXISTS thali_leases (
    name VARCHAR(700) PRIMARY KEY,
    holder VARCHAR(255) NOT NULL,
    epoch BIGINT NOT NULL,
    expires_at BIGINT NOT NULL
) ENGINE = InnoDB CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;
