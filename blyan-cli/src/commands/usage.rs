//! `blyan usage`.

use blyan_core::MoEModelManager;
use blyan_core::manager::ManagerOptions;
use blyan_core::usage::{ExpertUsage, UsageTracker};
use serde_json::json;

use super::Context;
use crate::arguments::Usage;
use crate::error::CliError;
use crate::names;
use crate::output::table;

pub(super) fn run(context: &mut Context<'_, '_>, arguments: &Usage) -> Result<(), CliError> {
    let chain = names::open(context.chain)?;
    let model = names::model(&chain, arguments.model.name.as_deref())?;
    // Opening a model maps no weights.
    let options = ManagerOptions { model, threads: Some(1), ..ManagerOptions::default() };
    let manager = MoEModelManager::open(&chain, &options)?;
    let usage: &UsageTracker = manager.usage();
    if arguments.reset {
        usage.reset()?;
    }
    let experts = match arguments.slot.as_deref() {
        Some(slot) => vec![usage.by_name(slot)?],
        None => usage.top(arguments.top),
    };
    if context.json {
        return context.streams.json(&json!({ "model": usage.model(), "experts": experts }));
    }
    if experts.is_empty() {
        return context.streams.line("no expert of this model has been used");
    }
    let rows: Vec<Vec<String>> = experts.iter().map(row).collect();
    let head = ["expert", "calls", "tokens", "share", "mean", "p95", "block"];
    context.streams.print(&table(&head, &rows, &[1, 2, 3, 4, 5]))
}

fn row(expert: &ExpertUsage) -> Vec<String> {
    let time = |ns: Option<f64>| ns.map_or_else(|| "-".to_owned(), |ns| format!("{:.1} µs", ns / 1e3));
    vec![
        expert.slot.clone(),
        expert.calls.to_string(),
        expert.tokens.to_string(),
        format!("{:.1} %", 100.0 * expert.weight_share),
        time(expert.latency_mean_ns),
        time(expert.latency_p95_ns),
        expert.block.short(),
    ]
}
