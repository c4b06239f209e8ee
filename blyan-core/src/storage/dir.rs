//! Owns the directory of a chain on a real file system.
//!
//! ```text
//! DIR/index.redb               the index
//! DIR/payloads/ab/ab…          payload files, 64 hexadecimal digits, mode 0444
//! DIR/tmp/                     files being written; emptied when a writer opens
//! ```

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead, Read, Write};
use std::path::{Path, PathBuf};

use redb::StorageBackend;
use redb::backends::FileBackend;

use super::medium::{Access, Medium};
use super::payload::Payload;
#[cfg(target_os = "linux")]
use super::payload_stream::PayloadStream;
use super::regular::{open_regular, read_regular};
use super::trust::FileIdentity;
use crate::hash::PayloadHash;

const INDEX_FILE: &str = "index.redb";
const PAYLOAD_FOLDER: &str = "payloads";
const TEMPORARY_FOLDER: &str = "tmp";

/// A chain's directory.
#[derive(Debug)]
pub struct DirMedium {
    dir: PathBuf,
}

impl DirMedium {
    /// Names a directory; nothing is touched before a chain opens it. It stays this directory when the process
    /// goes to another one: payload files are opened as they are needed, and deleted.
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        let dir = dir.into();
        // A path that cannot be made absolute, an empty one, cannot be opened either.
        Self { dir: std::path::absolute(&dir).unwrap_or(dir) }
    }

    /// Where a payload's file is, whether it exists or not.
    pub fn payload_path(&self, payload: &PayloadHash) -> PathBuf {
        let name = payload.to_string();
        let folder = name.get(..2).unwrap_or_default();
        self.dir.join(PAYLOAD_FOLDER).join(folder).join(&name)
    }

    fn temporary_path(&self, name: &str) -> PathBuf {
        self.dir.join(TEMPORARY_FOLDER).join(name)
    }

    /// Fails if there are payload files and no index: a new one in its place would know none of their blocks, and the
    /// next collection would delete them.
    fn refuse_lost_index(&self) -> io::Result<()> {
        let mut start = [0; 4];
        let begun = match read_regular(&self.dir.join(INDEX_FILE)) {
            // A file system that lost power can leave zeros; anything else is judged by who opens the index.
            Ok(mut index) => index.read_exact(&mut start).is_ok() && start != [0; 4],
            Err(error) => error.kind() != io::ErrorKind::NotFound,
        };
        if begun {
            return Ok(());
        }
        match self.list_payloads() {
            Ok(payloads) if payloads.is_empty() => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error),
            Ok(_) => Err(io::Error::new(
                io::ErrorKind::InvalidData,
                format!(
                    "{} has payload files, but {INDEX_FILE} is missing or holds nothing; put it back, or remove \
                     {PAYLOAD_FOLDER} to begin anew",
                    self.dir.display()
                ),
            )),
        }
    }

    /// Creates the folders, each durable before anything is put into it.
    fn create_folders(&self) -> io::Result<()> {
        create_dir_durably(&self.dir)?;
        create_dir_durably(&self.dir.join(PAYLOAD_FOLDER))?;
        create_dir_durably(&self.dir.join(TEMPORARY_FOLDER))
    }
}

/// Makes the entries of a folder durable.
fn sync_folder(folder: &Path) -> io::Result<()> {
    // Only Unix lets a folder be opened and synced; elsewhere the rename itself has to do.
    if cfg!(unix) { File::open(folder)?.sync_all() } else { Ok(()) }
}

/// A file that came to nothing goes at once: it may be large, and the disk full.
fn removed_unless(done: io::Result<()>, temporary: &Path) -> io::Result<()> {
    if done.is_err() {
        // What cannot be removed is when the chain is opened for writing next.
        let _ = fs::remove_file(temporary);
    }
    done
}

fn create_dir_durably(dir: &Path) -> io::Result<()> {
    if dir.is_dir() {
        return Ok(());
    }
    let parent = dir.parent().filter(|parent| !parent.as_os_str().is_empty());
    if let Some(parent) = parent {
        create_dir_durably(parent)?;
    }
    match fs::create_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && dir.is_dir() => {}
        other => other?,
    }
    sync_folder(parent.unwrap_or(Path::new(".")))
}

impl Medium for DirMedium {
    fn dir(&self) -> Option<&Path> {
        Some(&self.dir)
    }

    fn open_index(&self, access: Access) -> io::Result<Box<dyn StorageBackend>> {
        let path = self.dir.join(INDEX_FILE);
        self.refuse_lost_index()?;
        let file = match access {
            Access::ReadOnly => read_regular(&path)?,
            Access::ReadWrite => {
                self.create_folders()?;
                let mut options = OpenOptions::new();
                let file = open_regular(&path, options.read(true).write(true).create(true).truncate(false))?;
                // Even if all was there: who made it may have been killed before it was durable.
                sync_folder(&self.dir)?;
                file
            }
        };
        Ok(Box::new(FileBackend::new(file).map_err(io::Error::other)?))
    }

    fn open_payload(&self, payload: &PayloadHash) -> io::Result<Option<Payload>> {
        match read_regular(&self.payload_path(payload)) {
            Ok(file) => Payload::map(&file).map(Some),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    #[cfg(unix)]
    fn payload_identity(&self, payload: &PayloadHash) -> io::Result<Option<FileIdentity>> {
        use std::os::unix::fs::MetadataExt;
        match fs::metadata(self.payload_path(payload)) {
            Ok(file) => Ok(Some(FileIdentity {
                device: file.dev(),
                inode: file.ino(),
                size_bytes: file.len(),
                changed_ns: i128::from(file.ctime()) * 1_000_000_000 + i128::from(file.ctime_nsec()),
            })),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn stream_payload(
        &self,
        payload: &PayloadHash,
        part_bytes: usize,
    ) -> io::Result<Option<(u64, Box<dyn BufRead + Send>)>> {
        let file = match read_regular(&self.payload_path(payload)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            file => file?,
        };
        let len = file.metadata()?.len();
        #[cfg(target_os = "linux")]
        let stream = PayloadStream::new(file, len, part_bytes);
        #[cfg(not(target_os = "linux"))]
        let stream =
            io::BufReader::with_capacity(part_bytes.min(usize::try_from(len).unwrap_or(part_bytes)), file);
        Ok(Some((len, Box::new(stream))))
    }

    fn write_temporary(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        let mut options = OpenOptions::new();
        options.write(true).create_new(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o444);
        let path = self.temporary_path(name);
        let mut file = options.open(&path)?;
        let written = file.write_all(bytes).and_then(|()| file.sync_all());
        removed_unless(written, &path)
    }

    fn publish(&self, temporary: &str, payload: &PayloadHash) -> io::Result<()> {
        let (from, to) = (self.temporary_path(temporary), self.payload_path(payload));
        match fs::rename(&from, &to) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let folder = to.parent().map_or(Ok(()), create_dir_durably);
                removed_unless(folder.and_then(|()| fs::rename(&from, &to)), &from)
            }
            other => removed_unless(other, &from),
        }
    }

    fn sync_payload_folders(&self, payloads: &[PayloadHash]) -> io::Result<()> {
        let mut folders: Vec<PathBuf> = payloads
            .iter()
            .filter_map(|payload| self.payload_path(payload).parent().map(PathBuf::from))
            .collect();
        folders.sort();
        folders.dedup();
        // Who made one of them may have been killed before its own name was durable.
        folders.push(self.dir.join(PAYLOAD_FOLDER));
        folders.iter().try_for_each(|folder| sync_folder(folder))
    }

    fn list_payloads(&self) -> io::Result<Vec<(PayloadHash, u64)>> {
        let mut payloads = Vec::new();
        for folder in fs::read_dir(self.dir.join(PAYLOAD_FOLDER))? {
            let folder = folder?;
            if !folder.file_type()?.is_dir() {
                continue;
            }
            for file in fs::read_dir(folder.path())? {
                let file = file?;
                // Anything else that somebody put there is left alone.
                let payload = file.file_name().to_str().and_then(|name| name.parse::<PayloadHash>().ok());
                if let Some(payload) = payload.filter(|payload| self.payload_path(payload) == file.path()) {
                    payloads.push((payload, file.metadata()?.len()));
                }
            }
        }
        Ok(payloads)
    }

    fn remove_payload(&self, payload: &PayloadHash) -> io::Result<()> {
        match fs::remove_file(self.payload_path(payload)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            other => other,
        }
    }

    fn remove_temporaries(&self) -> io::Result<()> {
        for entry in fs::read_dir(self.dir.join(TEMPORARY_FOLDER))? {
            let path = entry?.path();
            match fs::remove_file(&path) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                other => other?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_stays_the_one_that_it_was() {
        let here = std::env::current_dir().unwrap();
        assert_eq!(DirMedium::new("a/chain").dir(), Some(&*here.join("a/chain")));
        assert_eq!(DirMedium::new("/a/chain").dir(), Some(Path::new("/a/chain")));
        assert!(DirMedium::new("").open_index(Access::ReadWrite).is_err());
    }
}
