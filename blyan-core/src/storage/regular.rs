//! Owns the opening of files that somebody else may have put there.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::Path;

/// Opens a regular file, or makes it if the options say so. A pipe in its place would wait for ever.
pub(crate) fn open_regular(path: &Path, options: &OpenOptions) -> io::Result<File> {
    match fs::metadata(path) {
        Ok(found) if !found.is_file() => {
            Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"))
        }
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => options.open(path),
    }
}

/// As [`open_regular`], for reading.
pub(crate) fn read_regular(path: &Path) -> io::Result<File> {
    open_regular(path, File::options().read(true))
}
