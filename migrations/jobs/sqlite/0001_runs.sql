-- Runs of materializations and the leases they hold. Times are microseconds since 1970 UTC.
CREATE TABLE IF NOT EXISTS thali_runs (
    id TEXT PRIMARY KEY,
    project TEXT NOT NULL,
    feature_view TEXT NOT NULL,
    kind TEXT NOT NULL,
    trigger TEXT NOT NULL,
    slot INTEGER,
    state TEXT NOT NULL,
    window_start INTEGER,
    window_end INTEGER,
    started_at INTEGER NOT NULL,
    heartbeat_at INTEGER NOT NULL,
    ended_at INTEGER,
    rows_read INTEGER NOT NULL DEFAULT 0,
    rows_written INTEGER NOT NULL DEFAULT 0,
    error TEXT
);
-- One run per scheduled slot, whoever gets there first.
CREATE UNIQUE INDEX IF NOT EXISTS thali_runs_slot ON thali_runs (project, feature_view, slot) WHERE slot IS NOT NULL;
CREATE INDEX IF NOT EXISTS thali_runs_started ON thali_runs (project, started_at);
CREATE INDEX IF NOT EXISTS thali_runs_state ON thali_runs (state, heartbeat_at);

CREATE TABLE IF NOT EXISTS thali_leases (
    name TEXT PRIMARY KEY,
    holder TEXT NOT NULL,
    epoch INTEGER NOT NULL,
    expires_at INTEGER NOT NULL
);
