//! What should be answered, by brute force: every row there ever was, looked through for each question.

use std::collections::HashMap;

pub(crate) const SECOND: i64 = 1_000_000;
pub(crate) const HOUR: i64 = 3_600 * SECOND;

/// The values of a row.
pub(crate) type Values = (Option<i64>, Option<f64>);

/// A row of the source.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Row {
    pub key: i64,
    /// Microseconds since 1970, as the created time.
    pub event: i64,
    pub created: i64,
    pub values: Values,
}

/// The rows of the source in its order, and the online store.
pub(crate) struct Model {
    pub rows: Vec<Row>,
    online: HashMap<i64, Row>,
    /// The online store keeps times in whole numbers of this.
    tick: i64,
}

impl Model {
    pub(crate) fn new(tick: i64) -> Self {
        Self {
            rows: Vec::new(),
            online: HashMap::new(),
            tick,
        }
    }

    /// The newest row of a key within a span of event times, both ends inside. Of equal event times the row
    /// created last is the newest, and of equal rows the last.
    fn newest(&self, key: i64, first: i64, last: i64) -> Option<Row> {
        let rows = self.rows.iter().filter(|row| row.key == key);
        let rows = rows.filter(|row| first <= row.event && row.event <= last);
        rows.max_by_key(|row| (row.event, row.created)).copied()
    }

    /// The as-of join at a moment: what was known of a key, unless it is older than `ttl`.
    pub(crate) fn join(&self, key: i64, moment: i64, ttl: Option<i64>) -> Values {
        let first = ttl.map_or(i64::MIN, |ttl| moment - ttl);
        self.newest(key, first, moment)
            .map_or((None, None), |row| row.values)
    }

    /// A row arrives in the online store, which never goes back.
    fn store(&mut self, row: Row) {
        let time = |row: &Row| row.event.div_euclid(self.tick);
        let known = self.online.get(&row.key);
        if known.is_none_or(|known| time(known) <= time(&row)) {
            self.online.insert(row.key, row);
        }
    }

    /// A row comes to both stores at once.
    pub(crate) fn push(&mut self, row: Row) {
        self.rows.push(row);
        self.store(row);
    }

    /// The newest rows of a window go to the online store.
    pub(crate) fn materialize(&mut self, keys: i64, first: i64, last: i64) {
        for key in 0..keys {
            if let Some(row) = self.newest(key, first, last) {
                self.store(row);
            }
        }
    }

    /// What the online store answers.
    pub(crate) fn online(&self, key: i64) -> Values {
        self.online.get(&key).map_or((None, None), |row| row.values)
    }
}
