//! Measures the limits of the machine, in the run whose figures are compared with them: one line of JSON.
//!
//! ```text
//! probe FOLDER [--threads N] [--mib N] [--payloads CHAIN]
//! probe --cores                            how far its cores are from each other, and nothing else
//! probe --payloads CHAIN --turns N [--dtype NAME] [--threads N]
//!                                          ways to read the chain's payloads and products of them, N turns each
//! ```
//!
//! In FOLDER a file is written, mapped and removed. The payloads of CHAIN are mapped and read as they are, one after the
//! other, if they are as many bytes: many GiB may be read slower than one GiB again and again. Each figure is the best of a
//! few passes, of reads their median as well; GB are 10^9 bytes. What the CPU or the kernel does not have is null.

#![expect(unsafe_code, reason = "the limits are those of single instructions and of maps with advice")]

use std::error::Error;
use std::fs::File;
use std::hint::black_box;
use std::io::Write;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::time::Instant;

use blyan_core::{DType, import};
use lexopt::prelude::*;
use peaks::peaks;
use peers_runner::cores_ns;
use rayon::prelude::*;
use read::{How, read, sum};
use serde_json::{Value, json};
use turns::turns;

mod peaks;
mod read;
mod turns;

type Outcome<T> = Result<T, Box<dyn Error + Send + Sync>>;

const HUGE_PAGE_BYTES: usize = 2 << 20;

/// A map that starts at a huge page's border, of a file or of anonymous memory.
struct Map {
    /// What was reserved, so that there is room for the border.
    reserved: *mut libc::c_void,
    reserved_bytes: usize,
    start: *mut u8,
    len_bytes: usize,
}

impl Map {
    /// Maps `len_bytes`, with advice for or against huge pages; `None` where the kernel refuses the advice for
    /// them.
    fn new(file: Option<&File>, len_bytes: usize, huge: bool) -> Outcome<Option<Self>> {
        let reserved_bytes = len_bytes + HUGE_PAGE_BYTES;
        let (nothing, none) = (std::ptr::null_mut(), libc::PROT_NONE);
        let anonymous = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
        // SAFETY: a new map at an address of the kernel's choice touches no other.
        let reserved = unsafe { libc::mmap(nothing, reserved_bytes, none, anonymous, -1, 0) };
        if reserved == libc::MAP_FAILED {
            return Err(std::io::Error::last_os_error().into());
        }
        let start = reserved.wrapping_byte_add(reserved.align_offset(HUGE_PAGE_BYTES));
        let map = Self { reserved, reserved_bytes, start: start.cast(), len_bytes };
        let (protection, flags, fd) = match file {
            Some(file) => (libc::PROT_READ, libc::MAP_SHARED, file.as_raw_fd()),
            None => (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, -1),
        };
        // SAFETY: the fixed range lies in what was just reserved.
        if unsafe { libc::mmap(start, len_bytes, protection, flags | libc::MAP_FIXED, fd, 0) } != start {
            return Err(std::io::Error::last_os_error().into());
        }
        let advice = if huge { libc::MADV_HUGEPAGE } else { libc::MADV_NOHUGEPAGE };
        // SAFETY: the advice changes no byte, and the range is that of the map.
        let refused = unsafe { libc::madvise(start, len_bytes, advice) } != 0;
        Ok((!(huge && refused)).then_some(map))
    }

    fn bytes(&self) -> &[u8] {
        // SAFETY: the map is readable and lives as long as `self`; its file has no name, or is a payload, which is never
        // written again: the chain is the benchmark's own.
        unsafe { std::slice::from_raw_parts(self.start, self.len_bytes) }
    }

    /// Writes every page of an anonymous map.
    fn fill(&mut self) {
        // SAFETY: an anonymous map is writable, and `self` is borrowed alone.
        let bytes = unsafe { std::slice::from_raw_parts_mut(self.start, self.len_bytes) };
        bytes
            .par_chunks_mut(HUGE_PAGE_BYTES)
            .enumerate()
            .for_each(|(index, part)| part.fill(index as u8 | 1));
    }
}

impl Drop for Map {
    fn drop(&mut self) {
        // SAFETY: no slice outlives `self`.
        unsafe { libc::munmap(self.reserved, self.reserved_bytes) };
    }
}

/// KiB of the process's maps of files that whole huge pages hold.
fn file_huge_kib() -> u64 {
    let rollup = std::fs::read_to_string("/proc/self/smaps_rollup").unwrap_or_default();
    let line = rollup.lines().find_map(|line| line.strip_prefix("FilePmdMapped:"));
    line.and_then(|line| line.trim().trim_end_matches(" kB").parse().ok()).unwrap_or(0)
}

fn run() -> Outcome<Value> {
    let (mut folder, mut threads, mut mib) = (None, std::thread::available_parallelism()?.get(), 1024);
    let (mut payloads, mut rounds, mut dtype) = (None, None, DType::I8);
    let mut parser = lexopt::Parser::from_env();
    while let Some(argument) = parser.next()? {
        match argument {
            Long("threads") => threads = parser.value()?.parse()?,
            Long("cores") => return Ok(json!({ "cores_ns": cores_ns() })),
            Long("mib") => mib = parser.value()?.parse()?,
            Long("turns") => rounds = Some(parser.value()?.parse()?),
            Long("dtype") => dtype = import::dtype_of_option(&parser.value()?.string()?)?,
            Long("payloads") => payloads = Some(PathBuf::from(parser.value()?).join("payloads")),
            Value(value) if folder.is_none() => folder = Some(PathBuf::from(value)),
            _ => return Err(argument.unexpected().into()),
        }
    }
    rayon::ThreadPoolBuilder::new().num_threads(threads).build_global()?;
    if let Some(rounds) = rounds {
        let maps = map_payloads(&payloads.ok_or("name a chain by --payloads")?)?;
        return turns(&parts_of(&maps), rounds, dtype, threads, mib << 20);
    }
    let folder = folder.ok_or("name a folder to write a file in")?;
    let len = mib << 20;
    let mut result = json!({ "threads": threads, "read_mib": mib });

    for (name, huge) in [("anonymous", false), ("anonymous_huge", true)] {
        let mut map = Map::new(None, len, huge)?;
        map.iter_mut().for_each(Map::fill);
        read_map(name, map.as_ref(), threads, &mut result);
        if let (Some(map), false) = (&map, huge) {
            hashes(map.bytes(), threads, &mut result);
        }
    }

    let path = folder.join(format!("probe-{}", std::process::id()));
    let mut file = File::options().read(true).write(true).create_new(true).open(&path)?;
    // Nameless from here on, so that nothing stays behind whatever happens.
    std::fs::remove_file(&path)?;
    let part = vec![0x5a_u8; HUGE_PAGE_BYTES];
    for _ in 0..len / HUGE_PAGE_BYTES {
        file.write_all(&part)?;
    }
    file.sync_all()?;
    for (name, huge) in [("file", false), ("file_huge", true)] {
        // Huge pages are given when a file is read through a map that asks for them, not when it was written.
        // SAFETY: a call on a file that is open; what it drops from the cache is on the disk.
        unsafe { libc::posix_fadvise(file.as_raw_fd(), 0, 0, libc::POSIX_FADV_DONTNEED) };
        let map = Map::new(Some(&file), len, huge)?;
        if let (Some(map), true) = (&map, huge) {
            black_box(sum(map.bytes(), How::Plain));
            result["file_huge_kib"] = json!(file_huge_kib());
        }
        read_map(name, map.as_ref(), threads, &mut result);
    }
    if let Some(payloads) = payloads {
        let maps = map_payloads(&payloads)?;
        let parts = parts_of(&maps);
        // Of fewer bytes a cache would hold much of what the pass before has read.
        if parts.iter().map(|part| part.len()).sum::<usize>() >= len {
            // Those that are not in memory are read from the disk here.
            parts.iter().for_each(|part| _ = black_box(sum(part, How::Plain)));
            read_parts("payloads", Some(&parts), threads, &mut result);
        }
    }
    peaks(threads, &mut result);
    Ok(result)
}

/// Bytes of payloads that are read, at most: those of several models are to stay in memory beside them.
const MOST_PAYLOAD_BYTES: u64 = 6 << 30;

/// The payloads of a chain in huge pages. Those that would be too much are left out, by their names and so by chance.
fn map_payloads(folder: &Path) -> Outcome<Vec<Map>> {
    let mut files = Vec::new();
    for prefix in std::fs::read_dir(folder)? {
        let prefix = prefix?;
        if prefix.file_type()?.is_dir() {
            for file in std::fs::read_dir(prefix.path())? {
                let file = file?;
                files.push((file.path(), file.metadata()?.len()));
            }
        }
    }
    files.sort();
    let mut left = MOST_PAYLOAD_BYTES;
    files.retain(|(_, len)| {
        let fits = (1..=left).contains(len);
        left -= if fits { *len } else { 0 };
        fits
    });
    let maps =
        files.iter().map(|(path, len)| Map::new(Some(&File::open(path)?), usize::try_from(*len)?, true));
    maps.filter_map(Outcome::transpose).collect()
}

/// Pieces, so that no thread reads a large one while the others have nothing left.
fn parts_of(maps: &[Map]) -> Vec<&[u8]> {
    maps.iter().flat_map(|map| map.bytes().chunks(4 * HUGE_PAGE_BYTES)).collect()
}

/// In each way, and how far the cores were before and after; null where there is no such map.
fn read_map(name: &str, map: Option<&Map>, threads: usize, result: &mut Value) {
    let bytes = map.map_or(&[][..], Map::bytes);
    let part = bytes.len().div_ceil(threads).next_multiple_of(64).max(64);
    let parts: Vec<&[u8]> = bytes.chunks(part).collect();
    read_parts(name, map.map(|_| &parts[..]), threads, result);
}

fn read_parts(name: &str, parts: Option<&[&[u8]]>, threads: usize, result: &mut Value) {
    for (suffix, how) in How::ALL {
        let before = cores_ns();
        let found = parts.map(|parts| read(parts, threads, how));
        result[format!("read_{name}{suffix}")] = json!(found.map(|(best, _)| best));
        result[format!("median_{name}{suffix}")] = json!(found.map(|(_, median)| median));
        result[format!("cores_{name}{suffix}")] = json!([before, cores_ns()]);
    }
}

/// BLAKE3 of a GB that is in memory: one thread, all threads on one input, all threads on their own.
fn hashes(bytes: &[u8], threads: usize, result: &mut Value) {
    let rate = |len: usize, work: &dyn Fn()| {
        let begun = Instant::now();
        work();
        json!(len as f64 / begun.elapsed().as_secs_f64() / 1e9)
    };
    let quarter = &bytes[..bytes.len() / 4];
    result["blake3_one_thread"] = rate(quarter.len(), &|| {
        black_box(blake3::hash(quarter));
    });
    result["blake3_one_input"] = rate(bytes.len(), &|| {
        black_box(blake3::Hasher::new().update_rayon(bytes).finalize());
    });
    result["blake3_many_inputs"] = rate(bytes.len(), &|| {
        let part = bytes.len().div_ceil(threads * 16);
        bytes.par_chunks(part).for_each(|part| {
            black_box(blake3::hash(part));
        });
    });
}

fn main() {
    println!("{}", run().unwrap_or_else(|error| json!({ "error": error.to_string() })));
}
