//! A record: rows of some sources, with a length and a checksum in front, so that a record that was being
//! written when the process ended is recognized.

use std::sync::Arc;

use arrow::{
    ipc::{reader::StreamReader, writer::StreamWriter},
    record_batch::RecordBatch,
};
use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use prost::Message as _;

use crate::{
    error::{Error, Result},
    proto::feast::core::DataSource,
};

/// Bytes in front of a record: its length and its checksum.
const HEAD: usize = 8;

pub(super) fn encode(rows: &[(Arc<DataSource>, RecordBatch)]) -> Result<Bytes> {
    let mut body = BytesMut::new();
    for (source, batch) in rows {
        part(&mut body, &source.encode_to_vec())?;
        let mut stream = StreamWriter::try_new(Vec::new(), &batch.schema())?;
        stream.write(batch)?;
        part(&mut body, &stream.into_inner()?)?;
    }
    let mut record = BytesMut::with_capacity(HEAD + body.len());
    record.put_u32_le(length(&body)?);
    record.put_u32_le(crc32fast::hash(&body));
    record.put_slice(&body);
    Ok(record.freeze())
}

fn part(out: &mut BytesMut, bytes: &[u8]) -> Result<()> {
    out.put_u32_le(length(bytes)?);
    out.put_slice(bytes);
    Ok(())
}

fn length(bytes: &[u8]) -> Result<u32> {
    u32::try_from(bytes.len()).map_err(|_| Error::invalid("the rows of one push have more than 4 GiB"))
}

/// The rows of a segment by source, in the order the sources first come.
pub(super) fn by_source(segment: Bytes) -> Result<Vec<(DataSource, Vec<RecordBatch>)>> {
    let mut sources: Vec<(Bytes, Vec<RecordBatch>)> = Vec::new();
    for mut body in records(segment) {
        while body.has_remaining() {
            let source = take(&mut body)?;
            let stream = StreamReader::try_new(take(&mut body)?.reader(), None)?;
            let batches = stream.collect::<Result<Vec<_>, _>>()?;
            match sources.iter_mut().find(|(known, _)| *known == source) {
                Some((_, known)) => known.extend(batches),
                None => sources.push((source, batches)),
            }
        }
    }
    let decoded = sources
        .into_iter()
        .map(|(source, batches)| Ok((DataSource::decode(source)?, batches)));
    decoded.collect()
}

/// The complete records of a segment. After the first that is not, nothing was acknowledged.
fn records(mut segment: Bytes) -> Vec<Bytes> {
    let mut records = Vec::new();
    while segment.len() >= HEAD {
        let length = segment.get_u32_le() as usize;
        let checksum = segment.get_u32_le();
        if segment.len() < length || crc32fast::hash(&segment[..length]) != checksum {
            break;
        }
        records.push(segment.split_to(length));
    }
    records
}

fn take(body: &mut Bytes) -> Result<Bytes> {
    let torn = || Error::internal("a record of the push journal is shorter than it says");
    if body.len() < 4 {
        return Err(torn());
    }
    let length = body.get_u32_le() as usize;
    if body.len() < length {
        return Err(torn());
    }
    Ok(body.split_to(length))
}
