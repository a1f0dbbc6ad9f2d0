//! Reading: one command for each entity, whatever the number of views, and one pipeline for a request.

use std::{collections::HashMap, sync::Arc};

use prost::Message as _;

use super::{
    RedisStore,
    layout::Layout,
    resp::{Part, Pipeline, Walk},
};
use crate::{
    error::{Error, Result},
    online::store::{OnlineRead, RowBatch, ViewColumns},
};

/// The entities of a request, each once.
#[derive(Default)]
struct Fetches<'a> {
    /// Groups that want the same entities, and what they want of them.
    sets: Vec<(Vec<usize>, Arc<Layout>)>,
    entities: Vec<Fetch<'a>>,
    /// For every entity, its row in each group of its set.
    rows: Vec<usize>,
}

struct Fetch<'a> {
    key: &'a [u8],
    set: usize,
    /// Where its rows begin.
    first: usize,
}

impl<'a> Fetches<'a> {
    fn new(store: &RedisStore, read: &'a OnlineRead<'_>) -> Self {
        let mut fetches = Self::default();
        if let [group] = read.groups {
            fetches.sets.push((vec![0], store.layouts.get(&group.views)));
            fetches.rows.extend(0..group.keys.len());
            let entities = group.keys.iter().enumerate();
            fetches
                .entities
                .extend(entities.map(|(first, key)| Fetch { key, set: 0, first }));
            return fetches;
        }
        // Under other names two groups may ask for the same entity: then one command answers both.
        let mut wanted: HashMap<&[u8], Vec<(usize, usize)>> = HashMap::new();
        let mut order = Vec::new();
        for (group, of_group) in read.groups.iter().enumerate() {
            for (row, key) in of_group.keys.iter().enumerate() {
                let places = wanted.entry(key).or_default();
                if places.is_empty() {
                    order.push(key);
                }
                places.push((group, row));
            }
        }
        let mut sets: HashMap<Vec<usize>, usize> = HashMap::new();
        for key in order {
            let places = wanted.remove(key.as_ref()).unwrap_or_default();
            let groups: Vec<usize> = places.iter().map(|(group, _)| *group).collect();
            let set = *sets.entry(groups).or_insert_with_key(|groups| {
                let layout = match groups[..] {
                    [group] => store.layouts.get(&read.groups[group].views),
                    _ => {
                        let views: Vec<&[ViewColumns]> =
                            groups.iter().map(|group| &*read.groups[*group].views).collect();
                        Arc::new(Layout::new(&views))
                    }
                };
                fetches.sets.push((groups.clone(), layout));
                fetches.sets.len() - 1
            });
            fetches.entities.push(Fetch {
                key,
                set,
                first: fetches.rows.len(),
            });
            fetches.rows.extend(places.iter().map(|(_, row)| *row));
        }
        fetches
    }
}

impl RedisStore {
    pub(super) async fn read_groups(&self, read: &OnlineRead<'_>) -> Result<Vec<RowBatch>> {
        let mut answer = Answer::new(read);
        let fetches = Fetches::new(self, read);
        if fetches.entities.is_empty() {
            return Ok(answer.batches);
        }
        let project = read.project.as_bytes();
        let whole: Vec<bool> = fetches
            .sets
            .iter()
            .map(|(_, layout)| layout.reads_whole())
            .collect();
        let size = |fetch: &Fetch<'_>| {
            let fields = if whole[fetch.set] {
                0
            } else {
                fetches.sets[fetch.set].1.arguments.len()
            };
            fetch.key.len() + project.len() + fields + 48
        };
        let mut pipeline = Pipeline::with_capacity(
            fetches.entities.iter().map(size).sum(),
            fetches.entities.len() + 2,
        );
        for fetch in &fetches.entities {
            if whole[fetch.set] {
                pipeline.begin(2);
                pipeline.arg(b"HGETALL");
                pipeline.key(fetch.key, project);
            } else {
                let layout = &fetches.sets[fetch.set].1;
                pipeline.begin(2 + layout.len());
                pipeline.arg(b"HMGET");
                pipeline.key(fetch.key, project);
                pipeline.encoded(&layout.arguments);
            }
        }
        let curious = &fetches.entities[0];
        let learner = &fetches.sets[curious.set].1;
        let learns = learner.wants_to_know();
        if learns {
            pipeline.begin(2);
            pipeline.arg(b"HLEN");
            pipeline.key(curious.key, project);
            pipeline.begin(3);
            pipeline.arg(b"OBJECT");
            pipeline.arg(b"ENCODING");
            pipeline.key(curious.key, project);
        }
        let frames = self.run(pipeline, "reading").await?;
        let mut orders: Vec<Order<'_>> = fetches.sets.iter().map(|_| Order::default()).collect();
        for (fetch, frame) in fetches.entities.iter().zip(&frames) {
            let (groups, layout) = &fetches.sets[fetch.set];
            let rows = &fetches.rows[fetch.first..fetch.first + groups.len()];
            let order = whole[fetch.set].then_some(&mut orders[fetch.set]);
            answer
                .fill(frame, layout, order, groups, rows)
                .map_err(|error| error.context(self.doing("reading")))?;
        }
        if learns && let [.., size, encoding] = &frames[..] {
            // A user who may not ask goes on as before.
            let size = Walk::new(size)
                .int()
                .ok()
                .and_then(|size| u32::try_from(size).ok());
            let encoding = Walk::new(encoding).bytes().unwrap_or_default();
            learner.learn(size.unwrap_or(0), matches!(encoding, b"listpack" | b"ziplist"));
        }
        Ok(answer.batches)
    }
}

/// The names in the order of the last whole hash, as they were sent, with their fields: the next hash mostly
/// has the same.
#[derive(Default)]
struct Order<'a>(Vec<(&'a [u8], Option<usize>)>);

impl<'a> Order<'a> {
    /// Goes past the name that comes in a place; answers its field, if it is wanted.
    fn find(&mut self, place: usize, walk: &mut Walk<'a>, layout: &Layout) -> Result<Option<usize>> {
        if let Some((known, field)) = self.0.get(place)
            && walk.passes(known)
        {
            return Ok(*field);
        }
        let (name, as_sent) = walk.bytes_as_sent()?;
        let field = layout.find(name);
        match self.0.get_mut(place) {
            Some(known) => *known = (as_sent, field),
            None => self.0.push((as_sent, field)),
        }
        Ok(field)
    }
}

/// What is answered, while it is filled.
struct Answer {
    batches: Vec<RowBatch>,
    /// By group, which batch is that of its first view.
    first: Vec<usize>,
    /// By group, how many views it has.
    views: Vec<usize>,
}

impl Answer {
    fn new(read: &OnlineRead<'_>) -> Self {
        let mut answer = Self {
            batches: Vec::new(),
            first: Vec::with_capacity(read.groups.len()),
            views: read.groups.iter().map(|group| group.views.len()).collect(),
        };
        for group in read.groups {
            answer.first.push(answer.batches.len());
            let batches = group.views.iter();
            answer
                .batches
                .extend(batches.map(|view| RowBatch::empty(group.keys.len(), view.features.len())));
        }
        answer
    }

    /// Puts the reply for one entity where it is wanted: for the groups of a set, in their rows.
    ///
    /// With an order it is the whole hash, names and values; without one the values of all fields.
    fn fill<'a>(
        &mut self,
        frame: &'a [u8],
        layout: &Layout,
        mut order: Option<&mut Order<'a>>,
        groups: &[usize],
        rows: &[usize],
    ) -> Result<()> {
        let mut walk = Walk::new(frame);
        let count = walk.array()?;
        if order.is_none() && count != layout.len() {
            return Err(Error::internal("another number of values than were asked for"));
        }
        for place in 0..if order.is_some() { count / 2 } else { count } {
            let field = match &mut order {
                Some(order) => order.find(place, &mut walk, layout)?,
                None => Some(place),
            };
            let value = walk.next()?;
            let (Some(field), Part::Bulk(range)) = (field, value) else {
                continue;
            };
            for target in layout.targets(field) {
                let batch = &mut self.batches[self.first[groups[target.group]] + target.view];
                let row = rows[target.group];
                match target.column {
                    Some(column) => {
                        batch.put(row, column, &frame[range.clone()]);
                    }
                    None => batch.event_times[row] = Some(micros(&frame[range.clone()])?),
                }
            }
        }
        for (group, row) in groups.iter().zip(rows) {
            let first = self.first[*group];
            for batch in &mut self.batches[first..first + self.views[*group]] {
                // Feast reads a row without a time as one of 1970.
                if batch.event_times[*row].is_none() && batch.row(*row).any(|value| value.is_some()) {
                    batch.event_times[*row] = Some(0);
                }
            }
        }
        Ok(())
    }
}

/// The microseconds since 1970 of an encoded `google.protobuf.Timestamp`.
fn micros(encoded: &[u8]) -> Result<i64> {
    let time = prost_types::Timestamp::decode(encoded)
        .map_err(|error| Error::internal(format!("an event time is damaged: {error}")))?;
    Ok(time
        .seconds
        .saturating_mul(1_000_000)
        .saturating_add(i64::from(time.nanos / 1_000)))
}
