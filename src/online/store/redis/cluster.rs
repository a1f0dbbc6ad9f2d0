//! A cluster: which node has which slot of keys, and commands to where they belong, one pipeline a node.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex as Plain},
};

use arc_swap::ArcSwap;
use bytes::Bytes;
use futures::future::join_all;
use tokio::sync::Mutex;

use super::{
    connection::Failure,
    node::{Node, SOON},
    options::{Address, Options},
    resp::{Part, Pipeline, Walk, error_of},
};
use crate::error::{Error, Result};

const SLOTS: usize = 16_384;

/// How often commands are sent until every node agrees that it is the one.
const ROUNDS: usize = 8;

/// A cluster and what is known of it.
#[derive(Debug)]
pub(super) struct Cluster {
    seeds: Vec<Address>,
    options: Options,
    nodes: Plain<HashMap<Address, Arc<Node>>>,
    map: ArcSwap<SlotMap>,
    /// Held by whoever asks for the map.
    gate: Mutex<()>,
}

/// The nodes by the slots they have; without any before it was first asked for.
#[derive(Debug, Default)]
struct SlotMap {
    generation: u64,
    primaries: Vec<Arc<Node>>,
    /// Indexes into `primaries`; what is too large stands for a slot that nobody has.
    slots: Vec<u16>,
}

impl SlotMap {
    fn node(&self, slot: u16) -> Option<&Arc<Node>> {
        self.primaries
            .get(usize::from(*self.slots.get(usize::from(slot))?))
    }
}

/// A command that has no answer yet.
struct Open {
    command: usize,
    /// The node another one named, and whether it must be told that it was asked on purpose.
    sent_to: Option<(Arc<Node>, bool)>,
}

impl Cluster {
    pub(super) fn new(seeds: Vec<Address>, options: Options) -> Self {
        // Clusters have one database.
        let options = Options {
            database: 0,
            ..options
        };
        Self {
            seeds,
            options,
            nodes: Plain::default(),
            map: ArcSwap::default(),
            gate: Mutex::default(),
        }
    }

    /// For messages.
    pub(super) fn describe(&self) -> String {
        let seeds: Vec<String> = self.seeds.iter().map(ToString::to_string).collect();
        format!("cluster `{}`", seeds.join(","))
    }

    fn node(&self, address: &Address) -> Arc<Node> {
        let make = || Arc::new(Node::fixed(address.clone(), self.options.clone()));
        match self.nodes.lock() {
            Ok(mut nodes) => Arc::clone(nodes.entry(address.clone()).or_insert_with(make)),
            Err(_) => make(),
        }
    }

    /// All nodes that have keys of their own.
    ///
    /// # Errors
    /// When no node tells.
    pub(super) async fn primaries(&self) -> Result<Vec<Arc<Node>>> {
        let map = self.map.load_full();
        self.refresh(map.generation).await?;
        Ok(self.map.load().primaries.clone())
    }

    /// Sends every command to the node that has its key, and answers the replies in order. As
    /// [`Node::run`], commands may be sent again.
    ///
    /// # Errors
    /// What kept a node from answering.
    pub(super) async fn run(&self, pipeline: &Pipeline) -> Result<Vec<Bytes>, Failure> {
        let mut frames = vec![Bytes::new(); pipeline.len()];
        let slots: Vec<u16> = (0..pipeline.len())
            .map(|command| slot(pipeline.key_of(command)))
            .collect();
        let open = |command| Open {
            command,
            sent_to: None,
        };
        let mut waiting: Vec<Open> = (0..pipeline.len()).map(open).collect();
        let mut failed = 0;
        for round in 0..ROUNDS {
            let mut map = self.map.load_full();
            if map.primaries.is_empty() {
                self.refresh(map.generation).await.map_err(Failure::Refused)?;
                map = self.map.load_full();
            }
            let last = round + 1 == ROUNDS;
            let answers = join_all(self.parts(&map, &slots, waiting)?.into_iter().map(|part| async {
                let (request, replies) = part.request(pipeline);
                let answer = part.node.run(request, replies).await;
                (part, answer)
            }));
            waiting = Vec::new();
            let (mut stale, mut later) = (false, false);
            for (part, answer) in answers.await {
                let answer = match answer {
                    Ok(answer) => answer,
                    // Another node may have taken over; when none did, it does not help to go on asking.
                    Err(failure) if failed > 0 || last => return Err(failure),
                    Err(_) => {
                        stale = true;
                        waiting.extend(part.commands.into_iter().map(open));
                        continue;
                    }
                };
                // With every command a word to the node goes ahead, when it was asked on purpose.
                let step = if part.asking { 2 } else { 1 };
                let answers = answer.into_iter().skip(step - 1).step_by(step);
                for (command, frame) in part.commands.into_iter().zip(answers) {
                    match self.redirected(&frame) {
                        _ if last => frames[command] = frame,
                        None => frames[command] = frame,
                        Some(Redirect::To { node, asking }) => {
                            stale |= !asking;
                            let sent_to = Some((node, asking));
                            waiting.push(Open { command, sent_to });
                        }
                        Some(Redirect::Later) => {
                            (stale, later) = (true, true);
                            waiting.push(open(command));
                        }
                    }
                }
            }
            if stale {
                let known = waiting.iter().all(|open| open.sent_to.is_some());
                if !known {
                    failed += usize::from(!later);
                    tokio::time::sleep(SOON).await;
                }
                // With the map as it was some commands go wrong again, and are sent on again.
                let _ = self.refresh(map.generation).await;
            }
            if waiting.is_empty() {
                return Ok(frames);
            }
        }
        Ok(frames)
    }

    /// The commands by the nodes they are for.
    fn parts(&self, map: &SlotMap, slots: &[u16], waiting: Vec<Open>) -> Result<Vec<PerNode>, Failure> {
        let mut parts: Vec<PerNode> = Vec::new();
        for open in waiting {
            let (node, asking) = match open.sent_to {
                Some(known) => known,
                None => match map.node(slots[open.command]) {
                    Some(node) => (Arc::clone(node), false),
                    None => {
                        let slot = slots[open.command];
                        return Err(Failure::Refused(Error::unavailable(format!(
                            "no node has slot {slot} of the cluster"
                        ))));
                    }
                },
            };
            let known = parts
                .iter_mut()
                .find(|part| part.asking == asking && Arc::ptr_eq(&part.node, &node));
            match known {
                Some(part) => part.commands.push(open.command),
                None => parts.push(PerNode {
                    node,
                    asking,
                    commands: vec![open.command],
                }),
            }
        }
        Ok(parts)
    }

    fn redirected(&self, frame: &[u8]) -> Option<Redirect> {
        let said = error_of(frame)?;
        let mut words = said.split(' ');
        match words.next()? {
            kind @ ("MOVED" | "ASK") => {
                let (host, port) = words.nth(1)?.rsplit_once(':')?;
                let host = host.to_owned();
                let port = port.parse().ok()?;
                Some(Redirect::To {
                    node: self.node(&Address { host, port }),
                    asking: kind == "ASK",
                })
            }
            "TRYAGAIN" | "CLUSTERDOWN" | "READONLY" => Some(Redirect::Later),
            _ => None,
        }
    }

    /// Asks for the map, unless somebody else has replaced the one of `generation` meanwhile.
    async fn refresh(&self, generation: u64) -> Result<()> {
        let _held = self.gate.lock().await;
        let old = self.map.load_full();
        if old.generation > generation {
            return Ok(());
        }
        let mut last = Error::unavailable("no node of the cluster is configured");
        let seeds = self.seeds.iter().map(|seed| self.node(seed));
        for node in old.primaries.iter().cloned().chain(seeds) {
            match self.ask_for_map(&node, old.generation + 1).await {
                Ok(map) => {
                    if let Ok(mut nodes) = self.nodes.lock() {
                        nodes.retain(|_, node| map.primaries.iter().any(|known| Arc::ptr_eq(known, node)));
                    }
                    self.map.store(Arc::new(map));
                    return Ok(());
                }
                Err(error) => last = error.context(node.describe()),
            }
        }
        Err(last)
    }

    async fn ask_for_map(&self, node: &Arc<Node>, generation: u64) -> Result<SlotMap> {
        let question = Pipeline::of(&[b"CLUSTER", b"SLOTS"]);
        let frames = node.run(question.into_bytes(), 1).await?;
        let frame = frames.first().cloned().unwrap_or_default();
        let mut walk = Walk::new(&frame);
        let mut map = SlotMap {
            generation,
            primaries: Vec::new(),
            slots: vec![u16::MAX; SLOTS],
        };
        for _ in 0..walk.array()? {
            let parts = walk.array()?;
            let (from, to) = (walk.int()?, walk.int()?);
            let words = walk.array()?;
            let host = match walk.next()? {
                Part::Bulk(range) => String::from_utf8_lossy(&frame[range]).into_owned(),
                _ => String::new(),
            };
            let port = u16::try_from(walk.int()?).unwrap_or_default();
            for _ in 2..words {
                walk.skip()?;
            }
            for _ in 3..parts {
                walk.skip()?;
            }
            // A node that does not know its own name is the one that was asked.
            let primary = if host.is_empty() {
                Arc::clone(node)
            } else {
                self.node(&Address { host, port })
            };
            let known = map
                .primaries
                .iter()
                .position(|known| Arc::ptr_eq(known, &primary));
            let place = known.unwrap_or(map.primaries.len());
            if known.is_none() {
                map.primaries.push(primary);
            }
            let range = usize::try_from(from).unwrap_or(SLOTS)..=usize::try_from(to).unwrap_or(0);
            if let Some(slots) = map.slots.get_mut(range) {
                slots.fill(u16::try_from(place).unwrap_or(u16::MAX));
            }
        }
        if map.primaries.is_empty() {
            return Err(Error::unavailable("the cluster has no slots yet"));
        }
        Ok(map)
    }
}

/// Where a node sends a command instead.
enum Redirect {
    To { node: Arc<Node>, asking: bool },
    Later,
}

/// The commands of a pipeline that one node gets.
struct PerNode {
    node: Arc<Node>,
    asking: bool,
    commands: Vec<usize>,
}

impl PerNode {
    /// What is sent, and how many replies that has.
    fn request(&self, pipeline: &Pipeline) -> (Bytes, usize) {
        let mut request = Vec::new();
        for &command in &self.commands {
            if self.asking {
                request.extend_from_slice(b"*1\r\n$6\r\nASKING\r\n");
            }
            request.extend_from_slice(pipeline.command(command));
        }
        let each = if self.asking { 2 } else { 1 };
        (request.into(), self.commands.len() * each)
    }
}

/// The slot of a key: of what stands in its first braces, where that is something.
fn slot(key: &[u8]) -> u16 {
    let tag = key.iter().position(|byte| *byte == b'{').and_then(|open| {
        let rest = &key[open + 1..];
        let close = rest.iter().position(|byte| *byte == b'}')?;
        (close > 0).then(|| &rest[..close])
    });
    crc16(tag.unwrap_or(key)) % SLOTS as u16
}

/// CRC-16/XMODEM.
fn crc16(bytes: &[u8]) -> u16 {
    const TABLE: [u16; 256] = {
        let mut table = [0; 256];
        let mut byte = 0;
        while byte < 256 {
            let mut crc = (byte as u16) << 8;
            let mut bit = 0;
            while bit < 8 {
                crc = if crc & 0x8000 == 0 {
                    crc << 1
                } else {
                    (crc << 1) ^ 0x1021
                };
                bit += 1;
            }
            table[byte] = crc;
            byte += 1;
        }
        table
    };
    bytes.iter().fold(0, |crc: u16, byte| {
        (crc << 8) ^ TABLE[usize::from((crc >> 8) as u8 ^ byte)]
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_as_redis_counts_them() {
        // `CLUSTER KEYSLOT` of Redis 7.
        assert_eq!(crc16(b"123456789"), 0x31c3);
        assert_eq!(slot(b"foo"), 12_182);
        assert_eq!(slot(b"{user1000}.following"), slot(b"user1000"));
        assert_eq!(slot(b"foo{}{bar}"), crc16(b"foo{}{bar}") % 16_384);
        assert_eq!(slot(b"foo{{bar}}zap"), slot(b"{bar"));
    }
}
