//! Owns status codes, and the message and block of the last error of each thread.

#![expect(unsafe_code, reason = "exported symbols, and pointers into a thread-local value")]

mod evidence;
mod learn;

use std::any::Any;
use std::cell::RefCell;
use std::ffi::c_char;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr;

use blyan_core::chain::{BundleError, ChainError};
use blyan_core::evolve::{EvaluateError, EvolveError, ParseKeyError};
use blyan_core::export::ExportError;
use blyan_core::format::{BlockKind, ManifestError, ParseSlotError, SpecError};
use blyan_core::hash::ParseHashError;
use blyan_core::import::ImportError;
use blyan_core::kernels::KernelError;
use blyan_core::manager::ManagerError;
use blyan_core::manager::chat::ChatError;
use blyan_core::manager::delta::DeltaBlockError;
use blyan_core::manager::receipt::ReceiptError;
use blyan_core::manager::sampling::SamplingError;
use blyan_core::manager::text::TextError;
use blyan_core::model::ModelError;
use blyan_core::storage::StorageError;
use blyan_core::tensor::{DeltaError, TensorError};
use blyan_core::usage::UsageError;
use blyan_core::{BlockHash, Error};
use blyan_learn::LearnError;

use crate::hash::blyan_hash;
use crate::text::Text;

/// What a call came to. Codes never change their meaning; new ones may be added.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(i32)]
pub enum blyan_status {
    /// It worked.
    Ok = 0,
    /// There is nothing more to iterate over; no error.
    End = 1,
    /// A callback asked to stop.
    Stopped = 2,
    /// A `blyan_cancel` was set.
    Cancelled = 3,
    /// A pointer that must not be NULL is NULL.
    NullArgument = 4,
    /// A text is not UTF-8.
    InvalidUtf8 = 5,
    /// The size of a struct or of a buffer does not fit.
    InvalidSize = 6,
    /// Another argument or option that makes no sense.
    InvalidArgument = 7,
    /// The handle is in use: by another thread, or by the callback's own caller.
    Busy = 8,
    /// There is no such block, tensor or expert.
    NotFound = 9,
    /// A block of another kind, slot or spec than is needed.
    WrongBlock = 10,
    /// A block, a payload or the index is not what was written.
    Damaged = 11,
    /// A block that the chain refuses to append.
    Refused = 12,
    /// A signature that is not valid.
    Signature = 13,
    /// There is no chain where one was to be opened for reading.
    NoChain = 14,
    /// The chain is open for writing elsewhere.
    Locked = 15,
    /// The last writer was interrupted; open the chain for writing once.
    NeedsRecovery = 16,
    /// The chain was opened for reading only.
    ReadOnly = 17,
    /// The file system refuses.
    Io = 18,
    /// A checkpoint that cannot be imported, or that a run of training cannot go on from.
    Checkpoint = 19,
    /// A model that cannot be exported so, or not to that folder.
    Export = 20,
    /// Tensors that cannot be read, written or converted.
    Tensor = 21,
    /// The chain holds no model.
    NoModel = 22,
    /// The chain holds several models: name one.
    ManyModels = 23,
    /// Blocks that make up no model that can run.
    InvalidModel = 24,
    /// Prompt and new tokens need more positions than the model has.
    ContextFull = 25,
    /// The tokenizer cannot, or there is none.
    Text = 26,
    /// The chat template cannot, or there is none.
    Chat = 27,
    /// Not the JSON of a receipt.
    Receipt = 28,
    /// Usage counts that cannot be stored.
    Usage = 29,
    /// The system has no threads or memory to give.
    Resources = 30,
    /// A defect of the library, caught at its edge. Free the handles of the call and go on without them.
    Panic = 31,
    /// Any other error.
    Other = 32,
    /// A payload that was collected: take in a bundle with it, or import its content again.
    Collected = 33,
    /// Not a bundle, a damaged one, or one that needs blocks which are not there.
    Bundle = 34,
    /// Evidence that is not valid: a statement that contradicts itself or what it names, or a key that may
    /// not make it. What only the chain finds out when it is appended is `BLYAN_STATUS_REFUSED`.
    Evidence = 35,
    /// A step that cannot be taken with what is on the chain: too early, too late, twice, or for nothing.
    Step = 36,
    /// The loss of a step of training is no number: lower the learning rate.
    Diverged = 37,
}

/// Every status with its name.
const NAMES: [(blyan_status, &str); 38] = [
    (blyan_status::Ok, "ok\0"),
    (blyan_status::End, "end\0"),
    (blyan_status::Stopped, "stopped\0"),
    (blyan_status::Cancelled, "cancelled\0"),
    (blyan_status::NullArgument, "null_argument\0"),
    (blyan_status::InvalidUtf8, "invalid_utf8\0"),
    (blyan_status::InvalidSize, "invalid_size\0"),
    (blyan_status::InvalidArgument, "invalid_argument\0"),
    (blyan_status::Busy, "busy\0"),
    (blyan_status::NotFound, "not_found\0"),
    (blyan_status::WrongBlock, "wrong_block\0"),
    (blyan_status::Damaged, "damaged\0"),
    (blyan_status::Refused, "refused\0"),
    (blyan_status::Signature, "signature\0"),
    (blyan_status::NoChain, "no_chain\0"),
    (blyan_status::Locked, "locked\0"),
    (blyan_status::NeedsRecovery, "needs_recovery\0"),
    (blyan_status::ReadOnly, "read_only\0"),
    (blyan_status::Io, "io\0"),
    (blyan_status::Checkpoint, "checkpoint\0"),
    (blyan_status::Export, "export\0"),
    (blyan_status::Tensor, "tensor\0"),
    (blyan_status::NoModel, "no_model\0"),
    (blyan_status::ManyModels, "many_models\0"),
    (blyan_status::InvalidModel, "invalid_model\0"),
    (blyan_status::ContextFull, "context_full\0"),
    (blyan_status::Text, "text\0"),
    (blyan_status::Chat, "chat\0"),
    (blyan_status::Receipt, "receipt\0"),
    (blyan_status::Usage, "usage\0"),
    (blyan_status::Resources, "resources\0"),
    (blyan_status::Panic, "panic\0"),
    (blyan_status::Other, "other\0"),
    (blyan_status::Collected, "collected\0"),
    (blyan_status::Bundle, "bundle\0"),
    (blyan_status::Evidence, "evidence\0"),
    (blyan_status::Step, "step\0"),
    (blyan_status::Diverged, "diverged\0"),
];

/// The last error of a thread.
#[repr(C)]
pub struct blyan_error {
    /// What the failed call returned.
    pub status: blyan_status,
    /// What went wrong and what to do about it, UTF-8, ends with NUL.
    pub message: *const c_char,
    /// Bytes of the message, without the NUL.
    pub message_len: usize,
    /// The block that it is about; NULL if it is about none.
    pub block: *const blyan_hash,
}

struct LastError {
    error: blyan_error,
    /// What `error` points to.
    _message: Text,
    _block: Option<Box<blyan_hash>>,
}

thread_local! {
    static LAST: RefCell<Option<Box<LastError>>> = const { RefCell::new(None) };
}

/// The last error of the calling thread: that of the last call that returned neither `BLYAN_STATUS_OK`
/// nor `BLYAN_STATUS_END`; NULL if there was none. Calls that succeed leave it as it is.
///
/// What it points to stays until the next error of this thread.
#[unsafe(no_mangle)]
pub extern "C" fn blyan_last_error() -> *const blyan_error {
    let last = LAST.try_with(|last| last.borrow().as_ref().map_or(ptr::null(), |last| &raw const last.error));
    last.unwrap_or(ptr::null())
}

/// Name of a status in lower case, such as "not_found"; "unknown" for a number that is none. Ends with
/// NUL, lives forever.
#[unsafe(no_mangle)]
pub extern "C" fn blyan_status_name(status: i32) -> *const c_char {
    let known = NAMES.iter().find(|(known, _)| *known as i32 == status);
    known.map_or("unknown\0", |(_, name)| name).as_ptr().cast()
}

/// Why a call failed.
#[derive(Debug)]
pub(crate) struct Failure {
    status: blyan_status,
    message: String,
    block: Option<BlockHash>,
}

pub(crate) type Outcome<T = ()> = Result<T, Failure>;

impl Failure {
    pub(crate) fn new(status: blyan_status, message: impl Into<String>) -> Self {
        Self { status, message: message.into(), block: None }
    }

    pub(crate) fn argument(message: impl Into<String>) -> Self {
        Self::new(blyan_status::InvalidArgument, message)
    }

    pub(crate) fn size(message: impl Into<String>) -> Self {
        Self::new(blyan_status::InvalidSize, message)
    }

    pub(crate) fn stopped() -> Self {
        Self::new(blyan_status::Stopped, "the callback asked to stop")
    }

    pub(crate) fn busy(what: &str) -> Self {
        Self::new(blyan_status::Busy, format!("the {what} is in use: one call at a time may have it"))
    }

    pub(crate) fn index(index: usize, len: usize) -> Self {
        Self::argument(format!("index {index} is out of range: there are {len}"))
    }

    /// What an error and its causes say.
    fn of(error: &dyn std::error::Error, (status, block): (blyan_status, Option<BlockHash>)) -> Self {
        let mut message = error.to_string();
        let mut cause = error.source();
        while let Some(error) = cause {
            let text = error.to_string();
            // Many errors quote their cause already.
            if !message.contains(&text) {
                message = format!("{message}: {text}");
            }
            cause = error.source();
        }
        Self { status, message, block }
    }

    fn report(self) -> blyan_status {
        let status = self.status;
        let message = Text::new(self.message);
        let block = self.block.map(|block| Box::new(block.into()));
        let error = blyan_error {
            status,
            message: message.view().data,
            message_len: message.view().len,
            block: block.as_deref().map_or(ptr::null(), ptr::from_ref),
        };
        let last = Box::new(LastError { error, _message: message, _block: block });
        // A thread that is ending has no place for it any more.
        let _ = LAST.try_with(|slot| slot.replace(Some(last)));
        status
    }
}

/// Runs a call: nothing that it does unwinds into the caller, and its error is there to be asked for.
pub(crate) fn edge(run: impl FnOnce() -> Outcome<()>) -> blyan_status {
    edge_status(|| run().map(|()| blyan_status::Ok))
}

/// As [`edge`], for calls that can end well in several ways.
pub(crate) fn edge_status(run: impl FnOnce() -> Outcome<blyan_status>) -> blyan_status {
    // What a panic leaves half done is reachable through the handles of this call alone, and those
    // that are not shared answer Busy from then on.
    match catch_unwind(AssertUnwindSafe(run)) {
        Ok(Ok(status)) => status,
        Ok(Err(failure)) => failure.report(),
        Err(panic) => Failure::new(blyan_status::Panic, panic_message(&*panic)).report(),
    }
}

fn panic_message(panic: &(dyn Any + Send)) -> String {
    let message = panic.downcast_ref::<&str>().copied();
    let message = message.or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    format!("a defect of the library: {}", message.unwrap_or("no message"))
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::of(&error, classify(&error))
    }
}

impl From<LearnError> for Failure {
    fn from(error: LearnError) -> Self {
        Self::of(&error, learn::of_learn(&error))
    }
}

macro_rules! core_errors {
    ($($error:ty,)*) => {$(
        impl From<$error> for Failure {
            fn from(error: $error) -> Self {
                Self::from(Error::from(error))
            }
        }
    )*};
}

core_errors! { ChainError, TensorError, ImportError, ExportError, ManagerError, UsageError, EvolveError, }

impl From<EvaluateError> for Failure {
    fn from(error: EvaluateError) -> Self {
        Self::from(EvolveError::from(error))
    }
}

macro_rules! plain_errors {
    ($($error:ty => $status:ident,)*) => {$(
        impl From<$error> for Failure {
            fn from(error: $error) -> Self {
                Self::new(blyan_status::$status, error.to_string())
            }
        }
    )*};
}

plain_errors! {
    ParseHashError => InvalidArgument,
    ParseSlotError => InvalidArgument,
    ParseKeyError => InvalidArgument,
    DeltaError => Tensor,
    semver::Error => InvalidArgument,
    ReceiptError => Receipt,
    TextError => Text,
    SpecError => InvalidModel,
    ManifestError => InvalidModel,
}

/// The status of an error, and the block that it is about.
fn classify(error: &Error) -> (blyan_status, Option<BlockHash>) {
    match error {
        Error::Chain(error) => of_chain(error),
        Error::Tensor(error) => of_tensor(error),
        Error::Import(error) => of_import(error),
        Error::Export(error) => of_export(error),
        Error::Manager(error) => of_manager(error),
        Error::Usage(error) => (of_usage(error), None),
        Error::Evolve(error) => evidence::of_evolve(error),
        _ => (blyan_status::Other, None),
    }
}

fn of_storage(error: &StorageError) -> blyan_status {
    match error {
        StorageError::Missing { .. } => blyan_status::NoChain,
        StorageError::Locked => blyan_status::Locked,
        StorageError::NeedsRecovery => blyan_status::NeedsRecovery,
        StorageError::ReadOnly => blyan_status::ReadOnly,
        StorageError::PayloadMissing { .. }
        | StorageError::PayloadLength { .. }
        | StorageError::PayloadMismatch { .. }
        | StorageError::IndexDamaged { .. } => blyan_status::Damaged,
        _ => blyan_status::Io,
    }
}

fn of_chain(error: &ChainError) -> (blyan_status, Option<BlockHash>) {
    match error {
        ChainError::Storage(error) => (of_storage(error), None),
        ChainError::Header { .. } | ChainError::Refused { .. } => (blyan_status::Refused, None),
        ChainError::NotFound { block } => (blyan_status::NotFound, Some(*block)),
        ChainError::MissingParent { parent, .. } => (blyan_status::Refused, Some(*parent)),
        ChainError::Signature { block } => (blyan_status::Signature, Some(*block)),
        ChainError::Damaged { block, .. } => (blyan_status::Damaged, Some(*block)),
        ChainError::PayloadCollected { block, .. } => (blyan_status::Collected, Some(*block)),
        ChainError::Bundle(error) => of_bundle(error),
        ChainError::IndexVersion { .. } => (blyan_status::Io, None),
        ChainError::Cancelled => (blyan_status::Cancelled, None),
        _ => (blyan_status::Other, None),
    }
}

fn of_bundle(error: &BundleError) -> (blyan_status, Option<BlockHash>) {
    match error {
        BundleError::Io { .. } => (blyan_status::Io, None),
        BundleError::PayloadLength { block, .. }
        | BundleError::MissingPayload { block, .. }
        | BundleError::Signature { block } => (blyan_status::Bundle, Some(*block)),
        BundleError::MissingParents { blocks } => (blyan_status::Bundle, blocks.first().copied()),
        _ => (blyan_status::Bundle, None),
    }
}

fn of_tensor(error: &TensorError) -> (blyan_status, Option<BlockHash>) {
    match error {
        TensorError::Chain(error) => of_chain(error),
        TensorError::NotWeights { block, .. } => (blyan_status::WrongBlock, Some(*block)),
        TensorError::InBlock { block, source } => (of_tensor(source).0, Some(*block)),
        TensorError::Missing { .. } => (blyan_status::NotFound, None),
        TensorError::Size { .. } => (blyan_status::InvalidSize, None),
        _ => (blyan_status::Tensor, None),
    }
}

fn of_import(error: &ImportError) -> (blyan_status, Option<BlockHash>) {
    match error {
        ImportError::Io { .. } => (blyan_status::Io, None),
        ImportError::Chain(error) => of_chain(error),
        ImportError::Cancelled => (blyan_status::Cancelled, None),
        _ => (blyan_status::Checkpoint, None),
    }
}

fn of_export(error: &ExportError) -> (blyan_status, Option<BlockHash>) {
    match error {
        ExportError::Io { .. } => (blyan_status::Io, None),
        ExportError::NoShardBytes => (blyan_status::InvalidArgument, None),
        ExportError::Chain(error) => of_chain(error),
        ExportError::Tensor { source, .. } => of_tensor(source),
        ExportError::NotAModel { block, .. } => (blyan_status::WrongBlock, Some(*block)),
        ExportError::Cancelled => (blyan_status::Cancelled, None),
        ExportError::Spec(_) | ExportError::Manifest(_) => (blyan_status::InvalidModel, None),
        _ => (blyan_status::Export, None),
    }
}

fn of_manager(error: &ManagerError) -> (blyan_status, Option<BlockHash>) {
    match error {
        ManagerError::Chain(error) => of_chain(error),
        ManagerError::Block { block, source, .. } => {
            let status = match of_tensor(source).0 {
                // A model whose block lacks a tensor, which nobody asked for by name.
                blyan_status::NotFound | blyan_status::Tensor => blyan_status::InvalidModel,
                status => status,
            };
            (status, Some(*block))
        }
        ManagerError::Model(ModelError::UnknownToken { .. } | ModelError::NoTokens)
        | ManagerError::SlotName(_)
        | ManagerError::Stop(_)
        | ManagerError::EmptyPrompt
        | ManagerError::NoMaxTokens
        | ManagerError::Zero { .. }
        | ManagerError::TooManyThreads { .. }
        | ManagerError::StreamFailed
        | ManagerError::AmbiguousName { .. }
        | ManagerError::NamedTwice
        | ManagerError::OverlaidTwice { .. }
        | ManagerError::NotGrowing { .. }
        | ManagerError::Kernel(KernelError::UnknownIsa { .. } | KernelError::IsaUnavailable { .. })
        | ManagerError::Sampling(SamplingError::OutOfRange { .. })
        | ManagerError::Text(TextError::TokenOutOfRange { .. }) => (blyan_status::InvalidArgument, None),
        ManagerError::Model(ModelError::ContextFull { .. }) | ManagerError::ContextFull { .. } => {
            (blyan_status::ContextFull, None)
        }
        ManagerError::Text(_) | ManagerError::NoTokenizer => (blyan_status::Text, None),
        ManagerError::Chat(ChatError::NoMessages | ChatError::Message { .. }) => {
            (blyan_status::InvalidArgument, None)
        }
        ManagerError::Chat(_) => (blyan_status::Chat, None),
        ManagerError::Receipt(_) => (blyan_status::Receipt, None),
        ManagerError::Usage(error) => (of_usage(error), None),
        ManagerError::NoModel => (blyan_status::NoModel, None),
        ManagerError::ManyModels { .. } => (blyan_status::ManyModels, None),
        ManagerError::NotAModel { block, .. }
        | ManagerError::NotASpec { block, .. }
        | ManagerError::WrongBlock { block, .. }
        | ManagerError::OtherSpec { block, .. } => (blyan_status::WrongBlock, Some(*block)),
        ManagerError::UnknownName { .. } | ManagerError::EmptySlot { .. } => (blyan_status::NotFound, None),
        ManagerError::ReleaseExists { model, .. } => (blyan_status::Refused, Some(*model)),
        ManagerError::NotInHistory { model, .. } => (blyan_status::InvalidArgument, Some(*model)),
        ManagerError::NeedsMigration { spec, .. } => (blyan_status::WrongBlock, Some(*spec)),
        ManagerError::Delta(error) => of_delta(error),
        ManagerError::UnknownSlot { .. } => (blyan_status::WrongBlock, None),
        ManagerError::Threads(_) => (blyan_status::Resources, None),
        ManagerError::SessionBusy => (blyan_status::Busy, None),
        _ => (blyan_status::InvalidModel, None),
    }
}

fn of_delta(error: &DeltaBlockError) -> (blyan_status, Option<BlockHash>) {
    match error {
        DeltaBlockError::NotADelta { block, .. }
        | DeltaBlockError::NoBase { block, .. }
        | DeltaBlockError::NotMerged { block }
        | DeltaBlockError::Parents { block, .. } => (blyan_status::WrongBlock, Some(*block)),
        DeltaBlockError::Mismatch { block, .. } => (blyan_status::Damaged, Some(*block)),
        DeltaBlockError::Delta { block, .. } => (blyan_status::Tensor, Some(*block)),
        _ => (blyan_status::Other, None),
    }
}

fn of_usage(error: &UsageError) -> blyan_status {
    match error {
        UsageError::Slot(_) => blyan_status::InvalidArgument,
        UsageError::NoExpert { .. } => blyan_status::NotFound,
        _ => blyan_status::Usage,
    }
}

/// The kind of that name, or one that no block has.
pub(crate) fn kind_of_name(name: &str) -> Outcome<BlockKind> {
    BlockKind::from_name(name)
        .ok_or_else(|| Failure::argument(format!("{name:?} is no kind of block, such as expert or kind4096")))
}

#[cfg(test)]
mod tests {
    use std::ffi::CStr;

    use super::*;

    fn last_message() -> String {
        let last = blyan_last_error();
        // SAFETY: it points to this thread's last error, whose message ends with NUL.
        unsafe { CStr::from_ptr((*last).message).to_str().unwrap().to_owned() }
    }

    #[test]
    fn a_panic_becomes_a_status() {
        assert_eq!(edge(|| panic!("told so")), blyan_status::Panic);
        assert_eq!(last_message(), "a defect of the library: told so");
        assert_eq!(edge(|| std::panic::panic_any(7)), blyan_status::Panic);
        assert_eq!(last_message(), "a defect of the library: no message");
    }

    #[test]
    fn success_keeps_the_last_error_and_threads_have_their_own() {
        let _ = edge(|| Err(Failure::argument("first")));
        let _ = edge(|| Ok(()));
        assert_eq!(last_message(), "first");
        std::thread::spawn(|| assert!(blyan_last_error().is_null())).join().unwrap();
    }

    #[test]
    fn an_error_names_its_block_and_its_cause_once() {
        let block = BlockHash::from_bytes([7; 32]);
        let error = ChainError::NotFound { block };
        let failure = Failure::from(TensorError::Chain(Box::new(error)));
        assert_eq!((failure.status, failure.block), (blyan_status::NotFound, Some(block)));
        assert_eq!(failure.message.matches(&block.to_string()).count(), 1);
        let refused = ChainError::Header {
            name: "A".to_owned(),
            source: blyan_core::format::HeaderError::NotCanonical,
        };
        assert!(Failure::from(refused).message.ends_with("not in canonical form"));
    }

    #[test]
    fn every_status_has_a_name_of_its_own() {
        for (place, (status, name)) in (0..).zip(NAMES) {
            assert_eq!(status as i32, place);
            // SAFETY: names end with NUL and live forever.
            let known = unsafe { CStr::from_ptr(blyan_status_name(place)) };
            assert_eq!(known.to_bytes(), name.trim_end_matches('\0').as_bytes());
        }
        // SAFETY: as above.
        assert_eq!(unsafe { CStr::from_ptr(blyan_status_name(-1)) }.to_bytes(), b"unknown");
    }
}
