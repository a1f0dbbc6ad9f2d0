-- What else is known of a run, and whether somebody asked it to stop.
CREATE TABLE IF NOT EXISTS thali_progress (
    run_id TEXT PRIMARY KEY,
    rows_resumed BIGINT NOT NULL DEFAULT 0,
    chunks BIGINT NOT NULL DEFAULT 0,
    cancel_requested BIGINT NOT NULL DEFAULT 0
);

-- How far the unfinished run of a view came, for the next one to go on from.
CREATE TABLE IF NOT EXISTS thali_checkpoints (
    project TEXT NOT NULL,
    feature_view TEXT NOT NULL,
    state TEXT NOT NULL,
    PRIMARY KEY (project, feature_view)
);
