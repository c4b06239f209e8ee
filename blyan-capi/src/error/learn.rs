//! Owns what errors of training are in C.

use blyan_core::BlockHash;
use blyan_learn::LearnError;

use super::{blyan_status, of_chain, of_manager, of_tensor};

pub(super) fn of_learn(error: &LearnError) -> (blyan_status, Option<BlockHash>) {
    match error {
        LearnError::Chain(error) => of_chain(error),
        LearnError::Manager(error) => of_manager(error),
        LearnError::Tensor { source, .. } => of_tensor(source),
        LearnError::Kernel(_) => (blyan_status::InvalidModel, None),
        LearnError::UnknownSlot { .. } => (blyan_status::NotFound, None),
        LearnError::Diverged { .. } => (blyan_status::Diverged, None),
        LearnError::Threads { .. } | LearnError::Memory { .. } => (blyan_status::Resources, None),
        LearnError::Checkpoint { .. } | LearnError::OtherRun { .. } => (blyan_status::Checkpoint, None),
        LearnError::Option { .. }
        | LearnError::NoSlots
        | LearnError::NoMatrix { .. }
        | LearnError::Balance { .. }
        | LearnError::FewTokens { .. }
        | LearnError::UnknownToken { .. }
        | LearnError::NoBase
        | LearnError::WholeModel { .. } => (blyan_status::InvalidArgument, None),
        // candle's.
        _ => (blyan_status::Other, None),
    }
}
