//! Owns the reading of the standard input, which Ctrl-C ends: a read of its own would wait for a writer that
//! may never write.

use std::io::{self, Cursor, Read};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::thread;
use std::time::Duration;

const CHUNK_BYTES: usize = 64 << 10;
/// Chunks that wait to be taken.
const CHUNKS: usize = 4;
/// How often to look whether to stop.
const POLL: Duration = Duration::from_millis(50);

/// The standard input, read by a thread of its own until it ends or nobody takes what is read.
pub(crate) struct Input<'a> {
    chunks: Receiver<io::Result<Vec<u8>>>,
    chunk: Cursor<Vec<u8>>,
    cancel: &'a AtomicBool,
}

impl<'a> Input<'a> {
    pub(crate) fn new(cancel: &'a AtomicBool) -> io::Result<Self> {
        let (taken, chunks) = sync_channel(CHUNKS);
        thread::Builder::new().name("blyan input".to_owned()).spawn(move || {
            let mut input = io::stdin().lock();
            loop {
                let mut chunk = vec![0; CHUNK_BYTES];
                let read = match input.read(&mut chunk) {
                    Ok(0) => return,
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                    read => read,
                };
                let failed = read.is_err();
                let sent = taken.send(read.map(|len| {
                    chunk.truncate(len);
                    chunk
                }));
                if failed || sent.is_err() {
                    return;
                }
            }
        })?;
        Ok(Self { chunks, chunk: Cursor::default(), cancel })
    }
}

impl Read for Input<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        loop {
            let len = self.chunk.read(out)?;
            if len > 0 || out.is_empty() {
                return Ok(len);
            }
            if self.cancel.load(Ordering::Relaxed) {
                return Err(io::Error::other("stopped"));
            }
            match self.chunks.recv_timeout(POLL) {
                Ok(chunk) => self.chunk = Cursor::new(chunk?),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return Ok(0),
            }
        }
    }
}
