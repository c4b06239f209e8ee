//! Experts that evolve on evidence: data, rounds of proposals, attestations, and what follows from them.

mod evaluate;

pub use evaluate::{
    DEFAULT_WINDOW, EvaluateError, EvaluateOptions, EvaluateProgress, Evaluation, evaluate,
    evaluate_model,
};
