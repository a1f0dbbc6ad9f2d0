-- Runs of materializations and the leases they hold. Times are microseconds since 1970 UTC.
CREATE TABLE IF NOT EXISTS thali_runs (
    id TEXT PRIMARY KEY,
    project TEXT NOT NULL,
    feature_view TEXT NOT NULL,
    kind TEXT NOT NULL,
    trigger TEXT NOT NULL,
    slot BIGINT,
    state TEXT NOT NULL,
    window_start BIGINT,
    window_end BIGINT,
    started_at BIGINT NOT NULL,
    heartbeat_at BIGINT NOT NULL,
    ended_at BIGINT,
    rows_read BIGINT NOT NULL DEFAULT 0,
    rows_written BIGINT NOT NULL DEFAULT 0,
    error TEXT
);
-- One run per scheduled slot, whoever gets there first.
CREATE UNIQUE INDEX IF NOT EXISTS thali_runs_slot ON thali_runs (project, feature_view, slot) WHERE slot IS NOT NULL;
CREATE INDEX IF NOT EXISTS thali_runs_started ON thali_runs (project, started_at);
CREATE INDEX IF NOT EXISTS thali_runs_state ON thali_runs (state, heartbeat_at);

CREATE TABLE IF NOT EXISTS thali_leases (
    name TEXT PRIMARY KEY,
    holder TEXT NOT NULL,
    epoch BIGINT NOT NULL,
    expires_at BIGINT NOT NULL
);
