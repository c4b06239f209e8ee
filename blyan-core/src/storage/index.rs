//! Owns the boundary to redb: opening, transactions, and its errors and panics as typed errors.
//!
//! redb trusts the file it wrote and may panic on another. Every call into it, dropping its values
//! included, runs inside [`guarded`].

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use redb::{
    Builder, ConcurrencyMode, Database, ReadOnlyDatabase, ReadTransaction, ReadableDatabase, WriteTransaction,
};

use super::error::StorageError;
use super::medium::{Access, Medium};
use super::pages::{CheckedPages, DamageLog};

/// Memory for pages of the index: the inner pages of millions of blocks, or all of some thousands.
const CACHE_BYTES: usize = 64 << 20;

fn storage_error(error: redb::Error) -> StorageError {
    match error {
        redb::Error::DatabaseAlreadyOpen | redb::Error::LockProtocolMismatch => StorageError::Locked,
        redb::Error::RepairAborted => StorageError::NeedsRecovery,
        redb::Error::Io(error) if error.kind() == io::ErrorKind::InvalidData => {
            StorageError::IndexDamaged { reason: error.to_string() }
        }
        redb::Error::Io(source) => {
            StorageError::Io { action: "use", path: PathBuf::from("index.redb"), source }
        }
        error @ (redb::Error::Corrupted(_)
        | redb::Error::UpgradeRequired(_)
        | redb::Error::TableTypeMismatch { .. }
        | redb::Error::TableDoesNotExist(_)
        | redb::Error::TypeDefinitionChanged { .. }) => {
            StorageError::IndexDamaged { reason: error.to_string() }
        }
        error => StorageError::Index { reason: error.to_string() },
    }
}

/// Runs code that calls redb; whatever it does on a damaged file becomes a typed error.
fn guarded<T>(damage: &DamageLog, call: impl FnOnce() -> Result<T, redb::Error>) -> Result<T, StorageError> {
    // Unwind safety: after a panic a transaction that writes is never used again, one that reads changes nothing that
    // a panic could leave half done, and a redb database that panicked says so (poisoned locks) or still serves the
    // pages of its last commit.
    let error = match catch_unwind(AssertUnwindSafe(call)) {
        Ok(Ok(value)) => return Ok(value),
        Ok(Err(error)) => storage_error(error),
        Err(panic) => {
            let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
            let text = text.or_else(|| panic.downcast_ref::<String>().cloned());
            let text = text.unwrap_or_else(|| "unexpected content".to_owned());
            StorageError::IndexDamaged { reason: text.lines().next().unwrap_or_default().to_owned() }
        }
    };
    match (error, damage.describe()) {
        (StorageError::Index { .. } | StorageError::IndexDamaged { .. }, Some(reason)) => {
            Err(StorageError::IndexDamaged { reason })
        }
        (error, _) => Err(error),
    }
}

/// Dropping a value of redb calls into it as well; its error, if any, has nobody left to tell.
fn drop_guarded<T>(damage: &DamageLog, value: Option<T>) {
    let _ = guarded(damage, || {
        drop(value);
        Ok(())
    });
}

enum Handle {
    Writable(Database),
    ReadOnly(ReadOnlyDatabase),
}

/// The open index database.
pub(crate) struct Index {
    /// `None` only while being dropped.
    handle: Option<Handle>,
    damage: Arc<DamageLog>,
    latest: Arc<Latest>,
}

/// The view of the last commit, for as long as this process is the one that writes: nobody else can make it old, and
/// to take a new one for every look-up costs several locks of the file. Let go after every commit, so that the next
/// one may use the pages again that only it still shows.
#[derive(Default)]
struct Latest(Mutex<Option<Arc<Snapshot>>>);

impl Latest {
    fn lock(&self) -> MutexGuard<'_, Option<Arc<Snapshot>>> {
        // A view is put in or taken out as a whole.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl std::fmt::Debug for Index {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Index").field("writable", &self.is_writable()).finish()
    }
}

impl Index {
    pub(crate) fn open(medium: &dyn Medium, access: Access) -> Result<Self, StorageError> {
        let place = || medium.dir().map(PathBuf::from).unwrap_or_default();
        let file = medium.open_index(access).map_err(|source| match source.kind() {
            io::ErrorKind::NotFound if access == Access::ReadOnly => StorageError::Missing { place: place() },
            io::ErrorKind::WouldBlock => StorageError::Locked,
            io::ErrorKind::InvalidData => StorageError::IndexDamaged { reason: source.to_string() },
            _ => StorageError::Io { action: "open the chain in", path: place(), source },
        })?;
        let pages = CheckedPages::new(file);
        let damage = pages.damage();
        let mut builder = Builder::new();
        builder.set_cache_size(CACHE_BYTES).set_concurrency_mode(ConcurrencyMode::SingleWriter);
        let handle = guarded(&damage, || {
            Ok(match access {
                Access::ReadWrite => Handle::Writable(builder.create_with_backend(pages)?),
                Access::ReadOnly => Handle::ReadOnly(builder.open_read_only_with_backend(pages)?),
            })
        })?;
        Ok(Self { handle: Some(handle), damage, latest: Arc::default() })
    }

    pub(crate) fn is_writable(&self) -> bool {
        matches!(self.handle, Some(Handle::Writable(_)))
    }

    /// The state of the last commit, of whichever process.
    pub(crate) fn snapshot(&self) -> Result<Arc<Snapshot>, StorageError> {
        // Whoever finds it locked does without: that may be for ever, in a process made by `fork`.
        let latest = self.is_writable().then(|| self.latest.0.try_lock().ok()).flatten();
        let Some(mut latest) = latest else { return Ok(Arc::new(self.new_snapshot()?)) };
        if let Some(snapshot) = latest.as_ref().filter(|latest| !latest.has_failed.load(Ordering::Relaxed)) {
            return Ok(snapshot.clone());
        }
        // Still locked: a commit takes the lock as well.
        Ok(latest.insert(Arc::new(self.new_snapshot()?)).clone())
    }

    fn new_snapshot(&self) -> Result<Snapshot, StorageError> {
        let transaction = guarded(&self.damage, || match &self.handle {
            Some(Handle::Writable(database)) => Ok(database.begin_read()?),
            Some(Handle::ReadOnly(database)) => Ok(database.begin_read()?),
            None => Err(redb::Error::DatabaseClosed),
        })?;
        Ok(Snapshot {
            transaction: Some(transaction),
            damage: self.damage.clone(),
            has_failed: AtomicBool::new(false),
        })
    }

    /// Begins to write, waiting for the writer before.
    pub(crate) fn begin_write(&self) -> Result<WriteBatch, StorageError> {
        let Some(Handle::Writable(database)) = &self.handle else {
            return Err(StorageError::ReadOnly);
        };
        let transaction = guarded(&self.damage, || {
            let mut transaction = database.begin_write()?;
            // The next open finds the allocator's state in the commit instead of walking all pages.
            transaction.set_quick_repair(true);
            Ok(transaction)
        })?;
        let (damage, latest) = (self.damage.clone(), self.latest.clone());
        Ok(WriteBatch { transaction: Some(transaction), damage, latest })
    }
}

impl Drop for Index {
    fn drop(&mut self) {
        drop(self.latest.lock().take());
        drop_guarded(&self.damage, self.handle.take());
    }
}

/// A consistent view of the index.
pub(crate) struct Snapshot {
    transaction: Option<ReadTransaction>,
    damage: Arc<DamageLog>,
    /// Whether a read failed, after which nobody else is to rely on it.
    has_failed: AtomicBool,
}

impl Snapshot {
    pub(crate) fn read<T>(
        &self,
        call: impl FnOnce(&ReadTransaction) -> Result<T, redb::Error>,
    ) -> Result<T, StorageError> {
        let result = guarded(&self.damage, || match &self.transaction {
            Some(transaction) => call(transaction),
            None => Err(redb::Error::DatabaseClosed),
        });
        if result.is_err() {
            self.has_failed.store(true, Ordering::Relaxed);
        }
        result
    }
}

impl Drop for Snapshot {
    fn drop(&mut self) {
        drop_guarded(&self.damage, self.transaction.take());
    }
}

/// Changes that become visible and durable together; dropped, they never were.
pub(crate) struct WriteBatch {
    /// `None` once committed, and after a failure, which may have left half a change.
    transaction: Option<WriteTransaction>,
    damage: Arc<DamageLog>,
    latest: Arc<Latest>,
}

impl WriteBatch {
    fn transaction(&self) -> Result<&WriteTransaction, StorageError> {
        let failed = || StorageError::Index { reason: "an earlier write of this transaction failed".into() };
        self.transaction.as_ref().ok_or_else(failed)
    }

    pub(crate) fn read<T>(
        &self,
        call: impl FnOnce(&WriteTransaction) -> Result<T, redb::Error>,
    ) -> Result<T, StorageError> {
        let transaction = self.transaction()?;
        guarded(&self.damage, || call(transaction))
    }

    /// Changes tables; after a failure the batch cannot be committed.
    pub(crate) fn write<T>(
        &mut self,
        call: impl FnOnce(&WriteTransaction) -> Result<T, redb::Error>,
    ) -> Result<T, StorageError> {
        let result = self.read(call);
        if result.is_err() {
            drop_guarded(&self.damage, self.transaction.take());
        }
        result
    }

    /// Fails once a write has, after which nothing can be done with the batch and others may write.
    pub(crate) fn check(&self) -> Result<(), StorageError> {
        self.transaction().map(drop)
    }

    pub(crate) fn commit(mut self) -> Result<(), StorageError> {
        self.check()?;
        let transaction = self.transaction.take();
        // Locked until the commit is over: who waits to write next may be let in before it returns, and must not find
        // the view before it.
        let mut latest = self.latest.lock();
        let committed = guarded(&self.damage, || match transaction {
            Some(transaction) => Ok(transaction.commit()?),
            None => Ok(()),
        });
        let old = latest.take();
        drop(latest);
        drop(old);
        committed
    }
}

impl Drop for WriteBatch {
    fn drop(&mut self) {
        drop_guarded(&self.damage, self.transaction.take());
    }
}
