//! Owns the writing of bundles: which blocks belong to one, and their bytes in the one order they have.

use std::collections::{HashMap, HashSet};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

use super::{
    BLOCK, BUNDLE_MAGIC, BundleError, BundleOptions, BundleProgress, BundleReport, END, MAX_BUNDLE_BLOCKS,
    MAX_EDGES, PART_BYTES, PAYLOAD, SIGNATURE, VERSION, check_cancelled, of_file, stream_error,
};
use crate::chain::error::{ChainError, Damage};
use crate::chain::reader::{Reader, payload_error};
use crate::chain::walk::all_tips;
use crate::chain::{Chain, tables};
use crate::format::{Header, HeaderError, PayloadRef};
use crate::hash::{BlockHash, PayloadHash};
use crate::storage::payload_store::check_hash;

/// What is known of a block that was walked over.
struct Walked {
    height: u64,
    payload: PayloadHash,
    inline: bool,
}

/// Adds blocks that are in the chain to `walked`, with their ancestors if asked for; stops at `except`.
fn walk(
    reader: &Reader,
    from: &[BlockHash],
    ancestors: bool,
    except: &HashMap<BlockHash, Walked>,
    cancel: &dyn Fn() -> Result<(), ChainError>,
) -> Result<HashMap<BlockHash, Walked>, ChainError> {
    let mut walked = HashMap::new();
    let mut open: Vec<(BlockHash, Option<BlockHash>)> = from.iter().map(|block| (*block, None)).collect();
    while let Some((hash, child)) = open.pop() {
        if walked.contains_key(&hash) || except.contains_key(&hash) {
            continue;
        }
        cancel()?;
        let found = reader.find(&hash)?.ok_or_else(|| match child {
            None => ChainError::NotFound { block: hash },
            Some(block) => ChainError::Damaged { block, reason: Damage::MissingParent { parent: hash } },
        })?;
        let header = found.block.header();
        if ancestors {
            let parents = header.parents.iter().filter(|parent| !walked.contains_key(&parent.hash));
            open.extend(parents.map(|parent| (parent.hash, Some(hash))));
        }
        let (payload, inline) = (header.payload.hash, tables::is_inline(header));
        walked.insert(hash, Walked { height: found.block.height(), payload, inline });
    }
    Ok(walked)
}

/// What goes into a bundle, and what of it is there by now.
struct Sent {
    blocks: HashMap<BlockHash, Walked>,
    /// Files that the other chain has; what lies in the index is written anyway.
    known_files: HashSet<PayloadHash>,
    payloads: HashSet<PayloadHash>,
    /// Parents that are in the bundle as well.
    edges: usize,
}

/// Writes records, and hashes and counts what it writes.
struct Sink<'a> {
    out: BufWriter<&'a mut dyn Write>,
    hasher: blake3::Hasher,
    report: BundleReport,
}

impl Sink<'_> {
    fn put(&mut self, bytes: &[u8]) -> Result<(), ChainError> {
        self.hasher.update(bytes);
        self.report.bytes += bytes.len() as u64;
        self.out.write_all(bytes).map_err(stream_error("write", PathBuf::new()))
    }

    fn end(mut self) -> Result<BundleReport, ChainError> {
        let BundleReport { blocks, payloads, signatures, .. } = self.report;
        self.put(&[END])?;
        for count in [blocks, payloads, signatures] {
            self.put(&count.to_le_bytes())?;
        }
        let hash = *self.hasher.finalize().as_bytes();
        self.put(&hash)?;
        self.out.flush().map_err(stream_error("write", PathBuf::new()))?;
        Ok(self.report)
    }
}

impl Chain {
    /// Writes blocks, their payloads and their signatures as one bundle, as of the last commit. The same
    /// set of blocks and signatures gives the same bytes.
    ///
    /// To send what another chain lacks, give its tips as [`BundleOptions::known`]. Memory stays near one
    /// payload and some bytes for each block.
    ///
    /// # Errors
    ///
    /// [`ChainError::NotFound`] for a block of `blocks`; [`ChainError::Damaged`],
    /// [`ChainError::PayloadCollected`]; [`ChainError::Bundle`] for the stream or too many blocks;
    /// [`ChainError::Cancelled`]. What was written then has no end, and no chain takes it in.
    pub fn bundle(
        &self,
        out: &mut dyn Write,
        options: &BundleOptions<'_>,
    ) -> Result<BundleReport, ChainError> {
        let cancel = || check_cancelled(options.cancel);
        let reader = self.reader()?;
        let known: Vec<BlockHash> = {
            let mut known = Vec::new();
            for block in &options.known {
                if reader.find(block)?.is_some() {
                    known.push(*block);
                }
            }
            known
        };
        let known = walk(&reader, &known, true, &HashMap::new(), &cancel)?;
        let (from, ancestors) = match &options.blocks {
            Some(blocks) => (blocks.clone(), options.ancestors),
            None => (all_tips(&reader)?, true),
        };
        let blocks = walk(&reader, &from, ancestors, &known, &cancel)?;
        let total_blocks = blocks.len() as u64;
        if total_blocks > MAX_BUNDLE_BLOCKS {
            return Err(BundleError::TooMany { what: "blocks", limit: MAX_BUNDLE_BLOCKS }.into());
        }
        let mut order: Vec<(u64, BlockHash)> =
            blocks.iter().map(|(hash, walked)| (walked.height, *hash)).collect();
        order.sort_unstable();
        let known = known.values().filter(|walked| !walked.inline).map(|walked| walked.payload).collect();
        let mut sent = Sent { blocks, known_files: known, payloads: HashSet::new(), edges: 0 };

        let mut sink = Sink {
            out: BufWriter::with_capacity(PART_BYTES, out),
            hasher: blake3::Hasher::new(),
            report: BundleReport::default(),
        };
        sink.put(&BUNDLE_MAGIC)?;
        sink.put(&VERSION.to_le_bytes())?;
        let mut payload_bytes = 0;
        for (_, hash) in order {
            cancel()?;
            payload_bytes += self.put_block(&reader, &mut sink, &hash, &mut sent, &cancel)?;
            if let Some(progress) = options.progress {
                progress(BundleProgress { blocks: sink.report.blocks, total_blocks, payload_bytes });
            }
        }
        // The last report may have been told to stop.
        cancel()?;
        sink.end()
    }

    /// Writes a block and returns how many bytes of payload that took.
    fn put_block(
        &self,
        reader: &Reader,
        sink: &mut Sink<'_>,
        hash: &BlockHash,
        sent: &mut Sent,
        cancel: &dyn Fn() -> Result<(), ChainError>,
    ) -> Result<u64, ChainError> {
        let stored = reader.get(hash)?;
        let header = stored.block.header();
        let PayloadRef { hash: payload, len_bytes, .. } = header.payload;
        sent.edges += header.parents.iter().filter(|parent| sent.blocks.contains_key(&parent.hash)).count();
        if sent.edges > MAX_EDGES {
            return Err(BundleError::TooMany { what: "parents", limit: MAX_EDGES as u64 }.into());
        }
        let inline = tables::is_inline(header);
        let known = !inline && sent.known_files.contains(&payload);
        let mut put = 0;
        if !known && sent.payloads.insert(payload) {
            // Checked, and not kept: each is read once.
            let bytes = if inline {
                stored.inline_payload()?.to_vec().into()
            } else {
                let files = self.payloads();
                let bytes = files.read(&payload, len_bytes).and_then(|bytes| {
                    check_hash(&payload, &bytes)?;
                    Ok(bytes)
                });
                bytes.map_err(payload_error(hash)).map_err(|error| self.explain(error))?
            };
            sink.put(&[PAYLOAD])?;
            sink.put(&len_bytes.to_le_bytes())?;
            for part in bytes.chunks(PART_BYTES) {
                cancel()?;
                sink.put(part)?;
            }
            sink.report.payloads += 1;
            put = len_bytes;
        }
        let bytes = header_bytes(hash, header)?;
        sink.put(&[BLOCK])?;
        sink.put(&u32::try_from(bytes.len()).unwrap_or(u32::MAX).to_le_bytes())?;
        sink.put(&bytes)?;
        sink.report.blocks += 1;
        for record in reader.signatures(hash)? {
            let crate::chain::SignatureRecord { public_key, time_ms, signature } = record;
            if !record.verifies(hash) {
                let reason = Damage::Signature { public_key, time_ms };
                return Err(ChainError::Damaged { block: *hash, reason });
            }
            sink.put(&[SIGNATURE])?;
            sink.put(hash.as_bytes())?;
            sink.put(&public_key)?;
            sink.put(&time_ms.to_le_bytes())?;
            sink.put(&signature)?;
            sink.report.signatures += 1;
            if sink.report.signatures > MAX_BUNDLE_BLOCKS {
                return Err(BundleError::TooMany { what: "signatures", limit: MAX_BUNDLE_BLOCKS }.into());
            }
        }
        Ok(put)
    }

    /// As [`Self::bundle`], into a file, which is there as a whole or not at all.
    ///
    /// # Errors
    ///
    /// As [`Self::bundle`].
    pub fn bundle_file(
        &self,
        path: impl AsRef<Path>,
        options: &BundleOptions<'_>,
    ) -> Result<BundleReport, ChainError> {
        let path = path.as_ref();
        let error = || stream_error("write", path.to_owned());
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
        let mut temporary = tempfile::Builder::new();
        // As any new file, to be handed on; a temporary file is the owner's alone.
        #[cfg(unix)]
        temporary.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
        let mut file = temporary.tempfile_in(folder.unwrap_or(Path::new("."))).map_err(error())?;
        let report = self.bundle(file.as_file_mut(), options).map_err(of_file(path))?;
        file.as_file().sync_all().map_err(error())?;
        file.persist(path).map_err(|failed| error()(failed.error))?;
        Ok(report)
    }
}

fn header_bytes(hash: &BlockHash, header: &Header) -> Result<Vec<u8>, ChainError> {
    let damaged = |error: HeaderError| ChainError::Damaged { block: *hash, reason: Damage::Header(error) };
    header.to_bytes().map_err(damaged)
}
