//! Owns [`CliError`]: how a command can end other than well, and which exit code that is.

use std::error::Error;
use std::io;
use std::path::PathBuf;

use blyan_core::chain::ChainError;
use blyan_core::evolve::{EvaluateError, EvolveError};
use blyan_core::import::{ExportError, ImportError};
use blyan_core::manager::ManagerError;
use blyan_core::tensor::TensorError;
use blyan_core::usage::UsageError;
use serde_json::{Value, json};

use crate::{FAILURE, INTERRUPTED, OK, USAGE};

#[derive(Debug, thiserror::Error)]
pub(crate) enum CliError {
    /// The arguments make no sense.
    #[error("{0}")]
    Usage(String),
    /// The library failed.
    #[error(transparent)]
    Core(Box<blyan_core::Error>),
    /// A file that the arguments name.
    #[error("cannot {action} {}", path.display())]
    File { action: &'static str, path: PathBuf, source: io::Error },
    /// A file whose content is not what it should be.
    #[error("{}: {reason}", path.display())]
    Content { path: PathBuf, reason: String },
    /// A name that means nothing here.
    #[error("{0}")]
    NotFound(String),
    /// A name that means several things.
    #[error("{name} may mean any of {} blocks: {}", candidates.len(), candidates.join(", "))]
    Ambiguous { name: String, candidates: Vec<String> },
    /// What was asked for cannot be written.
    #[error("cannot write the output")]
    Output(#[source] io::Error),
    /// What reads the output stopped reading.
    #[error("the output was closed")]
    BrokenPipe,
    /// The command did what it should and found what should not be. It has said so.
    #[error("not everything is as it should be")]
    Found,
    /// Ctrl-C.
    #[error("stopped")]
    Interrupted,
}

impl CliError {
    pub(crate) fn exit_code(&self) -> u8 {
        match self {
            Self::Usage(_) => USAGE,
            Self::Interrupted => INTERRUPTED,
            Self::BrokenPipe => OK,
            _ => FAILURE,
        }
    }

    /// A word for programs.
    fn kind(&self) -> &'static str {
        match self {
            Self::Usage(_) => "usage",
            Self::Core(error) => match **error {
                blyan_core::Error::Chain(_) => "chain",
                blyan_core::Error::Tensor(_) => "tensor",
                blyan_core::Error::Import(_) => "import",
                blyan_core::Error::Export(_) => "export",
                blyan_core::Error::Manager(_) => "model",
                blyan_core::Error::Usage(_) => "counts",
                blyan_core::Error::Evolve(_) => "evaluation",
                _ => "other",
            },
            Self::File { .. } => "file",
            Self::Content { .. } => "content",
            Self::NotFound(_) => "not_found",
            Self::Ambiguous { .. } => "ambiguous",
            Self::Output(_) => "output",
            Self::BrokenPipe | Self::Found => "other",
            Self::Interrupted => "interrupted",
        }
    }

    /// What led to it, the nearest cause first. Causes that the message repeats are left out.
    pub(crate) fn causes(&self) -> Vec<String> {
        let mut causes = Vec::new();
        let mut last = self.to_string();
        let mut cause = self.source();
        while let Some(error) = cause {
            let text = error.to_string();
            if !last.contains(&text) {
                causes.push(text.clone());
            }
            last = text;
            cause = error.source();
        }
        causes
    }

    pub(crate) fn to_json(&self) -> Value {
        json!({"error": {"kind": self.kind(), "message": self.to_string(), "causes": self.causes()}})
    }
}

macro_rules! from_core {
    ($($error:ty),*) => {
        $(
            impl From<$error> for CliError {
                fn from(error: $error) -> Self {
                    blyan_core::Error::from(error).into()
                }
            }
        )*
    };
}

from_core!(ChainError, ImportError, ExportError, ManagerError, TensorError, UsageError, EvolveError);

impl From<EvaluateError> for CliError {
    fn from(error: EvaluateError) -> Self {
        match error {
            EvaluateError::Cancelled => Self::Interrupted,
            EvaluateError::Manager(error) => error.into(),
            error => EvolveError::from(error).into(),
        }
    }
}

impl From<blyan_core::Error> for CliError {
    fn from(error: blyan_core::Error) -> Self {
        use blyan_core::Error;
        match error {
            Error::Chain(ChainError::Cancelled)
            | Error::Import(ImportError::Cancelled)
            | Error::Export(ExportError::Cancelled) => Self::Interrupted,
            Error::Manager(ManagerError::Chain(ChainError::Cancelled)) => Self::Interrupted,
            Error::Manager(error @ (ManagerError::UnknownName { .. } | ManagerError::EmptySlot { .. })) => {
                Self::NotFound(error.to_string())
            }
            Error::Manager(ManagerError::AmbiguousName { name, candidates }) => {
                Self::Ambiguous { name, candidates: candidates.iter().map(ToString::to_string).collect() }
            }
            error => Self::Core(Box::new(error)),
        }
    }
}
