//! No skew: what is answered online at a moment is what a training set has for that moment.
//!
//! Each key lives a history of its own: rows that come in order, late, twice or with equal times, by files or
//! pushed; materializations and restarts between. After each step the online store answers what the model's
//! does, and whenever everything has been materialized that is the model's join, and thali's.
//!
//! `THALI_SKEW_HISTORIES` says how many histories (20 000 of a Parquet file and SQLite, a twentieth of that of
//! each other pair of stores), `THALI_SKEW_SEED` where they begin. The servers are those of `databases.rs`.
#![expect(clippy::unwrap_used, clippy::panic, reason = "tests")]

#[path = "skew/model.rs"]
mod model;
#[path = "databases/servers.rs"]
#[expect(
    dead_code,
    unused_macros,
    unused_imports,
    reason = "tests of databases use all of it"
)]
mod servers;
#[path = "skew/world.rs"]
mod world;

use chrono::Utc;
use futures::StreamExt as _;

use self::{
    model::{HOUR, Model, Row, SECOND},
    world::{Offline, Online, Stores, TTL, World},
};

/// Histories that share a folder.
const KEYS: i64 = 500;
const STEPS: i64 = 8;
/// Folders at the same time.
const AT_ONCE: usize = 6;

/// Random numbers that are the same for the same seed.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: i64) -> i64 {
        // SplitMix64.
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        i64::try_from((mixed ^ (mixed >> 31)) % limit.unsigned_abs()).unwrap()
    }

    fn one_in(&mut self, count: i64) -> bool {
        self.below(count) == 0
    }
}

/// A row that arrives at `now`: mostly of the last minutes, sometimes hours late, sometimes of the very time
/// of a row that is there.
fn row(random: &mut Random, model: &Model, key: i64, now: i64, number: i64, pushed: bool) -> Row {
    let late = if random.one_in(4) { random.below(4) } else { 0 };
    let mut event = now - late * HOUR - random.below(600 * SECOND);
    if random.one_in(3) {
        let known = model
            .rows
            .iter()
            .filter(|row| row.key == key && row.event > now - 3 * HOUR);
        event = known.map(|row| row.event).next_back().unwrap_or(event);
        // The same second, or the very same time.
        event -= random.below(2) * random.below(event.rem_euclid(SECOND) + 1);
    }
    let missing = |random: &mut Random| random.one_in(8);
    Row {
        key,
        event,
        created: now - random.below(3) * SECOND,
        values: (
            (!missing(random)).then_some(number),
            // A push that says nothing is not stored online, as in Feast.
            (pushed || !missing(random)).then_some(f64::from(i32::try_from(number).unwrap()) / 2.0),
        ),
    }
}

/// Some rows, at most one of a key when they are pushed: what is pushed together has no order. Nor has a table,
/// so that no two of its rows were created at the same time.
fn rows(
    random: &mut Random,
    model: &Model,
    now: i64,
    number: &mut i64,
    pushed: bool,
    ordered: bool,
) -> Vec<Row> {
    let mut rows = Vec::new();
    for key in 0..KEYS {
        let count = if pushed { 1 } else { 1 + random.below(2) };
        for _ in 0..count {
            if random.one_in(3) {
                *number += 1;
                let mut row = row(random, model, key, now, *number, pushed);
                if !ordered {
                    row.created += *number;
                }
                rows.push(row);
            }
        }
    }
    rows
}

async fn histories_of(stores: Stores, seed: u64) {
    let mut random = Random(seed);
    let (mut world, mut model) = (World::new(stores).await, Model::new(stores.online.tick()));
    let ordered = matches!(stores.offline, Offline::File);
    let end = Utc::now().timestamp() * SECOND;
    let (mut number, mut until) = (0, i64::MIN);
    for step in 1..=STEPS {
        let now = end - (STEPS - step) * HOUR;
        if random.below(4) > 0 {
            let new = rows(&mut random, &model, now, &mut number, false, ordered);
            world.append(&new).await;
            model.rows.extend(new);
        }
        if random.one_in(2) {
            let new = rows(&mut random, &model, now, &mut number, true, ordered);
            world.push(&new).await;
            new.into_iter().for_each(|row| model.push(row));
        }
        if random.one_in(3) {
            world.restart().await;
        }
        if random.one_in(4) {
            let last = now - random.below(2) * HOUR;
            // Nobody may leave out a time: an incremental run begins where the last one of any kind ended.
            let first = if last > until {
                now - 100 * HOUR
            } else {
                last - random.below(6) * HOUR
            };
            world.materialize(Some(first), last).await;
            model.materialize(KEYS, first, last);
            until = until.max(last);
        }
        let everything = step == STEPS || random.one_in(2);
        if everything {
            world.materialize(None, now).await;
            model.materialize(KEYS, i64::MIN, now);
            until = now;
        }
        let online = world.online(KEYS).await;
        let joined = if everything {
            Some(world.join(KEYS, now).await)
        } else {
            None
        };
        for (key, place) in (0..KEYS).zip(0..) {
            let told = || {
                let rows: Vec<_> = model.rows.iter().filter(|row| row.key == key).collect();
                format!("{stores:?}, seed {seed}, step {step} at {now}, key {key}: {rows:#?}")
            };
            assert_eq!(online["plain"][place], model.online(key), "{}", told());
            if let Some(joined) = &joined {
                let right = model.join(key, now, None);
                assert_eq!(joined["plain"][place], right, "the join, {}", told());
                assert_eq!(online["plain"][place], right, "skew, {}", told());
            }
            if step == STEPS {
                let right = model.join(key, now, Some(TTL));
                assert_eq!(
                    joined.as_ref().unwrap()["aged"][place],
                    right,
                    "the join with ttl, {}",
                    told()
                );
                assert_eq!(online["aged"][place], right, "skew with ttl, {}", told());
            }
        }
    }
    world.remove().await;
}

fn number(variable: &str, otherwise: u64) -> u64 {
    std::env::var(variable).map_or(otherwise, |text| text.parse().unwrap())
}

/// `share`: of how many histories one is lived.
async fn all_histories(stores: Stores, share: u64) {
    let first = number("THALI_SKEW_SEED", 0);
    let histories = number("THALI_SKEW_HISTORIES", 20_000) / share;
    let seeds = futures::stream::iter(first..first + histories.div_ceil(KEYS.unsigned_abs()));
    let worlds = seeds
        .map(|seed| tokio::spawn(histories_of(stores, seed)))
        .buffer_unordered(AT_ONCE);
    worlds.for_each(|ended| async { ended.unwrap() }).await;
}

/// A test for each pair of stores.
macro_rules! no_skew {
    ($($name:ident: $offline:ident, $online:ident, one in $share:literal;)*) => {
        $(
            #[tokio::test(flavor = "multi_thread")]
            async fn $name() {
                let stores = Stores { offline: Offline::$offline, online: Online::$online };
                all_histories(stores, $share).await;
            }
        )*
    };
}

no_skew! {
    online_answers_are_what_the_join_answers: File, Sqlite, one in 1;
    so_they_are_in_redis: File, Redis, one in 20;
    so_they_are_in_postgres: File, Postgres, one in 20;
    so_they_are_of_a_table_in_redis: Postgres, Redis, one in 20;
    so_they_are_of_a_table_in_postgres: Postgres, Postgres, one in 20;
}
