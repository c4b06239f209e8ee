//! The Python module `blyan._blyan`: blyan-core as Python users expect it. No logic on this side of the
//! door.
//!
//! Each file owns one concept: it converts arguments (`args`), goes through the [`door`], and converts
//! results (`values`). Plain values are Python dataclasses (`blyan._values`), handles are classes of this
//! crate; what an error is in Python is in `describe`.

mod args;
mod block;
mod buffer;
mod bundle;
mod chain;
mod checkpoint;
mod command_line;
mod contribute;
mod dataset;
mod delta;
mod describe;
mod describe_evidence;
mod dlpack;
mod door;
mod evidence;
mod evolve;
mod failure;
mod fork;
mod history;
mod learn;
mod logs;
mod model;
mod pieces;
mod progress;
mod receipt;
mod session;
mod signature;
mod snapshot;
mod statement;
mod stream;
mod tensor;
mod usage;
mod values;
mod writer;

use pyo3::prelude::*;

/// blyan's compiled part; import `blyan` instead.
// What `fork` and `model` lock with the interpreter's lock alone needs that there is one.
#[pymodule(gil_used = true)]
mod _blyan {
    #[pymodule_export]
    use crate::block::{Block, block_with_report};
    #[pymodule_export]
    use crate::chain::{Blocks, Chain, unpickled_chain};
    #[pymodule_export]
    use crate::checkpoint::{export_checkpoint, import_checkpoint};
    #[pymodule_export]
    use crate::command_line::command_line;
    #[pymodule_export]
    use crate::contribute::{
        append_receipt, audit_usage, contribute, extract, periods, record_usage, recorded_uses,
        reward_credits, rewards, run_of,
    };
    #[pymodule_export]
    use crate::dataset::{
        audit_dataset, check_dataset_audit, dataset_state, datasets, propose_dataset,
        recompute_dataset_audit, rule, tally, tokenize, vote,
    };
    #[pymodule_export]
    use crate::delta::{append_delta, apply_delta, merge_delta, merged_hash, merged_payload, restore_merged};
    #[pymodule_export]
    use crate::door::CancelToken;
    #[pymodule_export]
    use crate::evidence::public_key;
    #[pymodule_export]
    use crate::evolve::{
        accuse, append_policy, attest, audit, candidate_root, chosen_without, claim, claim_commitment,
        claims_of, close_round, evaluate, evaluate_model, evaluate_together, evidence_of, judge, open_round,
        policy_of, propose_candidate, publish, publish_release, reveal, snapshot_of, split_commitment,
    };
    #[pymodule_export]
    use crate::history::{find_block, find_model, grow, lineage, migrate, release, releases, rollback};
    #[pymodule_export]
    use crate::learn::Trainer;
    #[pymodule_export]
    use crate::logs::deliver_logs;
    #[pymodule_export]
    use crate::model::{MoEModelManager, available_isas};
    #[pymodule_export]
    use crate::receipt::Receipt;
    #[pymodule_export]
    use crate::session::Session;
    #[pymodule_export]
    use crate::signature::{sign_block, signature_verifies};
    #[pymodule_export]
    use crate::snapshot::{Snapshot, snapshot_of_manifest};
    #[pymodule_export]
    use crate::statement::{append_statement, read_statement, sign_statement, statement_of};
    #[pymodule_export]
    use crate::stream::Stream;
    #[pymodule_export]
    use crate::tensor::{
        Payload, TensorBlock, TensorView, convert, payload_from_bytes, quantize, write_tensors,
    };
    #[pymodule_export]
    use crate::usage::UsageTracker;
    #[pymodule_export]
    use crate::writer::{Writer, draft_hash};

    use super::*;

    #[pymodule_init]
    fn init(module: &Bound<'_, PyModule>) -> PyResult<()> {
        blyan_core::hash::is_first_process();
        crate::logs::listen(module)?;
        module.add("__version__", env!("CARGO_PKG_VERSION"))?;
        module.add("NUMERICS_VERSION", blyan_core::kernels::NUMERICS_VERSION)
    }
}
