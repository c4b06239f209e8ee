//! Training, as blyan-learn has it: from a snapshot, or from nothing, to candidates. One file per concept.

pub mod gradients;
pub mod options;
pub mod trained;
pub mod trainer;
