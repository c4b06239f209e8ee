//! Owns the taking in of bundles. Bytes from anybody are read through once and checked as far as they can
//! be by themselves, before the chain is touched; then blocks are appended in an order in which parents
//! come first, each by the ordinary append, all in one transaction.

use std::collections::hash_map::Entry;
use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};
use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use super::{
    BLOCK, BUNDLE_MAGIC, BundleError, BundleProgress, END, MAX_BUNDLE_BLOCKS, MAX_EDGES, PART_BYTES, PAYLOAD,
    SIGNATURE, UnbundleOptions, UnbundleReport, VERSION, check_cancelled, of_file, stream_error,
};
use crate::chain::error::ChainError;
use crate::chain::signature::SignatureRecord;
use crate::chain::writer::{Content, Writer};
use crate::chain::{Chain, tables};
use crate::format::{Header, HeaderError, MAX_HEADER_BYTES, PayloadRef};
use crate::hash::{BlockHash, PayloadHash};

/// Bytes of a stream that are kept in memory before they go to a temporary file.
const SPOOL_BYTES: usize = 16 << 20;
/// Missing parents that an error names.
const MAX_NAMED: usize = 1000;

/// Bytes that can be read again.
trait Source: Read + Seek {}

impl<T: Read + Seek> Source for T {}

/// Where something lies in the bundle.
#[derive(Debug, Clone, Copy)]
struct Place {
    offset_bytes: u64,
    len_bytes: u64,
}

impl Place {
    fn read(self, source: &mut dyn Source) -> Result<Vec<u8>, ChainError> {
        let error = || stream_error("read", PathBuf::new());
        source.seek(SeekFrom::Start(self.offset_bytes)).map_err(error())?;
        // Its length was proven by reading it before.
        let mut bytes = Vec::with_capacity(usize::try_from(self.len_bytes).unwrap_or(usize::MAX));
        source.take(self.len_bytes).read_to_end(&mut bytes).map_err(error())?;
        if bytes.len() as u64 == self.len_bytes { Ok(bytes) } else { Err(BundleError::Changed.into()) }
    }
}

/// What a bundle holds, and where.
#[derive(Default)]
struct Contents {
    blocks: Vec<(BlockHash, Place)>,
    payloads: HashMap<PayloadHash, Place>,
    signatures: Vec<(BlockHash, SignatureRecord)>,
}

/// Reads a bundle through, hashing all of it and keeping a copy of a stream.
struct Scanner<'a> {
    input: BufReader<&'a mut dyn Read>,
    copy: Option<&'a mut dyn Write>,
    hasher: blake3::Hasher,
    offset_bytes: u64,
    options: &'a UnbundleOptions<'a>,
}

impl Scanner<'_> {
    fn fill(&mut self, out: &mut [u8]) -> Result<(), ChainError> {
        check_cancelled(self.options.cancel)?;
        let mut filled = 0;
        while let Some(rest) = out.get_mut(filled..).filter(|rest| !rest.is_empty()) {
            match self.input.read(rest) {
                Ok(0) => {
                    let len_bytes = self.offset_bytes + filled as u64;
                    return Err(BundleError::Truncated { len_bytes }.into());
                }
                Ok(len) => filled += len,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(stream_error("read", PathBuf::new())(error)),
            }
        }
        if let Some(copy) = &mut self.copy {
            copy.write_all(out).map_err(stream_error("keep", PathBuf::new()))?;
        }
        self.hasher.update(out);
        self.offset_bytes += filled as u64;
        Ok(())
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], ChainError> {
        let mut bytes = [0; N];
        self.fill(&mut bytes)?;
        Ok(bytes)
    }

    fn count(&mut self) -> Result<u64, ChainError> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    fn scan(mut self) -> Result<Contents, ChainError> {
        match self.array() {
            Ok(BUNDLE_MAGIC) => {}
            Ok(_) => return Err(BundleError::NotABundle.into()),
            Err(error) => return Err(error),
        }
        let found = u16::from_le_bytes(self.array()?);
        if found != VERSION {
            return Err(BundleError::Version { found }.into());
        }
        let mut contents = Contents::default();
        let mut seen = HashSet::new();
        loop {
            let offset_bytes = self.offset_bytes;
            match self.array()? {
                [PAYLOAD] => self.payload(&mut contents, offset_bytes)?,
                [BLOCK] => self.block(&mut contents, &mut seen, offset_bytes)?,
                [SIGNATURE] => self.signature(&mut contents)?,
                [END] => break,
                [tag] => return Err(BundleError::Record { tag, offset_bytes }.into()),
            }
        }
        self.end(&contents)?;
        if let Some((block, _)) = contents.signatures.iter().find(|(block, _)| !seen.contains(block)) {
            return Err(BundleError::Signature { block: *block }.into());
        }
        Ok(contents)
    }

    fn payload(&mut self, contents: &mut Contents, record: u64) -> Result<(), ChainError> {
        let len_bytes = self.count()?;
        let limit_bytes = self.options.max_payload_bytes;
        if len_bytes > limit_bytes {
            return Err(BundleError::PayloadTooLong { len_bytes, limit_bytes }.into());
        }
        too_many(contents.payloads.len(), "payloads")?;
        let place = Place { offset_bytes: self.offset_bytes, len_bytes };
        let mut hasher = blake3::Hasher::new();
        let part_bytes = usize::try_from(len_bytes).unwrap_or(usize::MAX).min(PART_BYTES);
        let mut part = vec![0; part_bytes];
        let mut rest = len_bytes;
        while rest > 0 {
            let len = usize::try_from(rest).unwrap_or(usize::MAX).min(part.len());
            let (part, _) = part.split_at_mut(len);
            self.fill(part)?;
            hasher.update(part);
            rest -= len as u64;
        }
        let payload = PayloadHash::from_bytes(*hasher.finalize().as_bytes());
        if contents.payloads.insert(payload, place).is_some() {
            return Err(BundleError::Repeated { what: "payload", offset_bytes: record }.into());
        }
        Ok(())
    }

    fn block(
        &mut self,
        contents: &mut Contents,
        seen: &mut HashSet<BlockHash>,
        record: u64,
    ) -> Result<(), ChainError> {
        let len = u32::from_le_bytes(self.array()?);
        let header_error = |source| ChainError::from(BundleError::Header { offset_bytes: record, source });
        let len = usize::try_from(len).unwrap_or(usize::MAX);
        if len > MAX_HEADER_BYTES {
            return Err(header_error(HeaderError::TooLong { len }));
        }
        too_many(contents.blocks.len(), "blocks")?;
        let place = Place { offset_bytes: self.offset_bytes, len_bytes: len as u64 };
        let mut bytes = Vec::new();
        while bytes.len() < len {
            // Grows with what is really there.
            let start = bytes.len();
            bytes.resize(len.min(start + PART_BYTES), 0);
            self.fill(bytes.get_mut(start..).unwrap_or_default())?;
        }
        Header::from_bytes(&bytes).map_err(header_error)?;
        let hash = BlockHash::of_header(&bytes);
        if !seen.insert(hash) {
            return Err(BundleError::Repeated { what: "block", offset_bytes: record }.into());
        }
        contents.blocks.push((hash, place));
        Ok(())
    }

    fn signature(&mut self, contents: &mut Contents) -> Result<(), ChainError> {
        too_many(contents.signatures.len(), "signatures")?;
        let block = BlockHash::from_bytes(self.array()?);
        let (public_key, time_ms, signature) = (self.array()?, self.count()?, self.array()?);
        let record = SignatureRecord { public_key, time_ms, signature };
        if !record.verifies(&block) {
            return Err(BundleError::Signature { block }.into());
        }
        contents.signatures.push((block, record));
        Ok(())
    }

    fn end(&mut self, contents: &Contents) -> Result<(), ChainError> {
        let counts = [self.count()?, self.count()?, self.count()?];
        let expected = *self.hasher.finalize().as_bytes();
        let found: [u8; 32] = self.array()?;
        if found != expected {
            return Err(BundleError::Checksum.into());
        }
        let actual = [contents.blocks.len(), contents.payloads.len(), contents.signatures.len()];
        if counts != actual.map(|count| count as u64) {
            return Err(BundleError::Counts.into());
        }
        let mut more = [0; 1];
        match self.fill(&mut more) {
            Err(ChainError::Bundle(BundleError::Truncated { .. })) => Ok(()),
            Ok(()) => Err(BundleError::Trailing { offset_bytes: self.offset_bytes - 1 }.into()),
            Err(error) => Err(error),
        }
    }
}

fn too_many(held: usize, what: &'static str) -> Result<(), ChainError> {
    if held as u64 >= MAX_BUNDLE_BLOCKS {
        return Err(BundleError::TooMany { what, limit: MAX_BUNDLE_BLOCKS }.into());
    }
    Ok(())
}

/// A block in the order of appending.
struct Planned {
    hash: BlockHash,
    header: Place,
    /// In the bundle, else in the chain's payload store, else the chain has the block.
    payload: Option<Place>,
}

/// Sorts the blocks so that parents come first, and checks that all they need is there.
fn plan(
    chain: &Chain,
    contents: &Contents,
    source: &mut dyn Source,
    options: &UnbundleOptions<'_>,
) -> Result<Vec<Planned>, ChainError> {
    let numbers: HashMap<BlockHash, usize> =
        contents.blocks.iter().enumerate().map(|(number, (hash, _))| (*hash, number)).collect();
    let reader = chain.reader()?;
    let mut used = HashSet::new();
    let mut missing = BTreeSet::new();
    let mut edges: Vec<(u32, u32)> = Vec::new();
    let mut waits_for = vec![0_u32; contents.blocks.len()];
    let mut planned = Vec::with_capacity(contents.blocks.len());
    // Many blocks may name one large file, which is hashed once.
    let mut intact: HashMap<(PayloadHash, u64), bool> = HashMap::new();
    for (number, (hash, place)) in contents.blocks.iter().enumerate() {
        check_cancelled(options.cancel)?;
        let (header, _) = read_header(*place, hash, source)?;
        for parent in &header.parents {
            if let Some(parent) = numbers.get(&parent.hash) {
                if edges.len() >= MAX_EDGES {
                    return Err(BundleError::TooMany { what: "parents", limit: MAX_EDGES as u64 }.into());
                }
                edges.push((*parent as u32, number as u32));
                if let Some(count) = waits_for.get_mut(number) {
                    *count += 1;
                }
            } else if missing.len() < MAX_NAMED && reader.find(&parent.hash)?.is_none() {
                missing.insert(parent.hash);
            }
        }
        let payload = contents.payloads.get(&header.payload.hash).copied();
        match payload {
            Some(place) => {
                used.insert(header.payload.hash);
                let (expected, actual) = (header.payload.len_bytes, place.len_bytes);
                if expected != actual {
                    return Err(BundleError::PayloadLength { block: *hash, expected, actual }.into());
                }
            }
            None => {
                let file = (header.payload.hash, header.payload.len_bytes);
                let stored = !tables::is_inline(&header)
                    && match intact.entry(file) {
                        Entry::Occupied(known) => *known.get(),
                        Entry::Vacant(entry) => *entry.insert(chain.payloads().is_intact(&file.0, file.1)?),
                    };
                if !stored && reader.find(hash)?.is_none() {
                    let payload = header.payload.hash;
                    return Err(BundleError::MissingPayload { block: *hash, payload }.into());
                }
            }
        }
        planned.push(Some(Planned { hash: *hash, header: *place, payload }));
    }
    if !missing.is_empty() {
        return Err(BundleError::MissingParents { blocks: missing.into_iter().collect() }.into());
    }
    if let Some(payload) = contents.payloads.keys().filter(|payload| !used.contains(*payload)).min() {
        return Err(BundleError::StrayPayload { payload: *payload }.into());
    }
    edges.sort_unstable();
    let mut ready: VecDeque<usize> =
        (0..planned.len()).filter(|number| waits_for.get(*number) == Some(&0)).collect();
    let mut order = Vec::with_capacity(planned.len());
    while let Some(number) = ready.pop_front() {
        order.extend(planned.get_mut(number).and_then(Option::take));
        let first = edges.partition_point(|(parent, _)| (*parent as usize) < number);
        for (_, child) in edges.iter().skip(first).take_while(|(parent, _)| *parent as usize == number) {
            let child = *child as usize;
            if let Some(count) = waits_for.get_mut(child) {
                *count -= 1;
                if *count == 0 {
                    ready.push_back(child);
                }
            }
        }
    }
    // Blocks in a circle would need a hash that contains itself; the append would refuse them, too.
    Ok(order)
}

fn read_header(
    place: Place,
    hash: &BlockHash,
    source: &mut dyn Source,
) -> Result<(Header, Vec<u8>), ChainError> {
    let bytes = place.read(source)?;
    if BlockHash::of_header(&bytes) != *hash {
        return Err(BundleError::Changed.into());
    }
    let header = Header::from_bytes(&bytes).map_err(|_| BundleError::Changed)?;
    Ok((header, bytes))
}

/// What was appended to a transaction.
#[derive(Default)]
struct Done {
    blocks_new: u64,
    payload_bytes_new: u64,
    signatures_new: u64,
}

/// Appends everything to a transaction.
fn append(
    writer: &mut Writer,
    chain: &Chain,
    plan: &[Planned],
    contents: &Contents,
    source: &mut dyn Source,
    options: &UnbundleOptions<'_>,
) -> Result<Done, ChainError> {
    let mut progress = BundleProgress { total_blocks: plan.len() as u64, ..BundleProgress::default() };
    let mut done = Done::default();
    for block in plan {
        check_cancelled(options.cancel)?;
        let (header, header_bytes) = read_header(block.header, &block.hash, source)?;
        let PayloadRef { hash: payload, len_bytes, .. } = header.payload;
        let mut fetch = || {
            let bytes = match block.payload {
                Some(place) => place.read(source)?,
                // The chain has it from another block, and the file was found intact.
                None => chain.payloads().read(&payload, len_bytes)?.to_vec(),
            };
            if PayloadHash::of(&bytes) == payload { Ok(bytes) } else { Err(BundleError::Changed.into()) }
        };
        if block.payload.is_some() || !writer.contains(&block.hash)? {
            let appended = writer.append_block(&header, &header_bytes, Content::Elsewhere(&mut fetch))?;
            done.blocks_new += u64::from(appended.new_block);
            done.payload_bytes_new += if appended.new_payload { len_bytes } else { 0 };
        }
        progress.blocks += 1;
        progress.payload_bytes = progress.payload_bytes.saturating_add(len_bytes);
        if let Some(report) = options.progress {
            report(progress);
        }
    }
    for (block, record) in &contents.signatures {
        check_cancelled(options.cancel)?;
        done.signatures_new += u64::from(writer.add_new_signature(block, record)?);
    }
    // The last report may have been told to stop.
    check_cancelled(options.cancel)?;
    Ok(done)
}

impl Chain {
    /// Takes in a bundle from a stream, which is copied to a temporary file if it is long, and read to its
    /// end: all of its blocks that the chain does not hold, or nothing. Taking one in again changes nothing.
    ///
    /// # Errors
    ///
    /// [`ChainError::Bundle`] for bytes that are no whole bundle or need blocks that are not there,
    /// [`ChainError::Refused`] for a block that its validator refuses, [`ChainError::Cancelled`]: nothing
    /// was changed then. [`ChainError::Storage`].
    pub fn unbundle(
        &self,
        input: &mut dyn Read,
        options: &UnbundleOptions<'_>,
    ) -> Result<UnbundleReport, ChainError> {
        let mut spool = tempfile::spooled_tempfile(SPOOL_BYTES);
        let scanner = Scanner {
            input: BufReader::new(input),
            copy: Some(&mut spool),
            hasher: blake3::Hasher::new(),
            offset_bytes: 0,
            options,
        };
        let contents = scanner.scan()?;
        self.take_in(&contents, &mut spool, options)
    }

    /// As [`Self::unbundle`], from a file.
    ///
    /// # Errors
    ///
    /// As [`Self::unbundle`].
    pub fn unbundle_file(
        &self,
        path: impl AsRef<Path>,
        options: &UnbundleOptions<'_>,
    ) -> Result<UnbundleReport, ChainError> {
        let path = path.as_ref();
        let mut file = File::open(path).map_err(stream_error("open", path.to_owned()))?;
        let scanner = Scanner {
            input: BufReader::new(&mut file),
            copy: None,
            hasher: blake3::Hasher::new(),
            offset_bytes: 0,
            options,
        };
        let contents = scanner.scan().map_err(of_file(path))?;
        self.take_in(&contents, &mut file, options).map_err(of_file(path))
    }

    fn take_in(
        &self,
        contents: &Contents,
        source: &mut dyn Source,
        options: &UnbundleOptions<'_>,
    ) -> Result<UnbundleReport, ChainError> {
        // Begun first: nobody collects a payload that was found in the chain.
        let mut writer = self.writer()?;
        let plan = plan(self, contents, source, options)?;
        let done = match append(&mut writer, self, &plan, contents, source, options) {
            Ok(done) => done,
            Err(error) => {
                // The reason is worth more than a failure to tidy up; the next collection does.
                let _ = writer.abandon();
                return Err(error);
            }
        };
        writer.commit()?;
        let Done { blocks_new, payload_bytes_new, signatures_new } = done;
        let blocks_known = plan.len() as u64 - blocks_new;
        Ok(UnbundleReport { blocks_new, blocks_known, signatures_new, payload_bytes_new, root: self.root()? })
    }
}
