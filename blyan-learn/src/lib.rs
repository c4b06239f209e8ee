//! Train experts of a model that is kept as content-addressed blocks: some experts or routers of a snapshot
//! learn on a slice of tokens, everything else stays as it is, and what comes of it are candidate blocks.
//!
//! ```
//! use blyan_core::import::{self, ImportOptions};
//! use blyan_core::manager::Snapshot;
//! use blyan_core::{Chain, Slot};
//! use blyan_learn::{Schedule, TrainOptions, Trainer};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../blyan-core/tests/fixtures/mixtral");
//! let chain = Chain::in_memory()?;
//! import::checkpoint(&chain, folder, &ImportOptions::default())?;
//! let snapshot = Snapshot::only_model(&chain)?;
//!
//! let tokens: Vec<u32> = (0..200).map(|i| i * i % 97).collect();
//! let options = TrainOptions {
//!     slots: vec![Slot::Expert { layer: 1, expert: 2 }, Slot::Router { layer: 1 }],
//!     steps: 3,
//!     batch: 2,
//!     sequence: 16,
//!     schedule: Schedule { peak: 1e-3, ..Schedule::default() },
//!     ..TrainOptions::default()
//! };
//! let mut trainer = Trainer::new(&chain, &snapshot, tokens, options)?;
//! trainer.run(&mut |step| println!("{} {:.3}", step.step, step.loss), None)?;
//!
//! let mut better = snapshot.clone();
//! for candidate in trainer.append_candidates(&chain)? {
//!     better = better.with_block(&chain, &candidate.block)?; // to be judged by the core
//! }
//! # Ok(())
//! # }
//! ```
//!
//! Training is done with [candle](https://github.com/huggingface/candle)'s automatic differentiation in f32. It
//! is no part of what has to be reproduced: a candidate is judged by what its blocks do in the core, bit for
//! bit. On one machine a run repeats itself for one seed and number of threads.

mod attention;
mod candidate;
mod checkpoint;
mod decoder;
mod error;
mod experts;
mod lanes;
mod memory;
mod ops;
mod optimizer;
mod parameters;
mod product;
mod source;
mod storage;
mod trainer;

pub use candidate::Candidate;
pub use error::LearnError;
pub use optimizer::{AdamW, Schedule};
pub use parameters::Form;
pub use trainer::{Ended, Gradients, StepReport, TrainOptions, Trainer};
