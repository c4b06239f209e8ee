//! `blyan export`.

use blyan_core::export::{self, ExportOptions, ExportProgress};
use serde_json::json;

use super::{Context, bytes};
use crate::arguments::Export;
use crate::error::CliError;
use crate::names;
use crate::output::Progress;

pub(super) fn run(context: &mut Context<'_, '_>, arguments: &Export) -> Result<(), CliError> {
    let chain = names::open(context.chain)?;
    let model = names::snapshot(&chain, arguments.model.name.as_deref())?.model_block(&chain)?;
    let bar = Progress::new(context.streams.terminal);
    let show =
        |progress: ExportProgress| bar.set(progress.tensor_bytes, progress.total_tensor_bytes, String::new);
    let defaults = ExportOptions::default();
    let options = ExportOptions {
        overwrite: arguments.overwrite,
        max_shard_bytes: arguments.max_shard_bytes.unwrap_or(defaults.max_shard_bytes),
        progress: Some(&show),
        cancel: Some(context.cancel),
    };
    let report = export::checkpoint(&chain, &model, &arguments.dir, &options)?;
    drop(bar);
    if context.json {
        return context.streams.json(&json!({
            // Serde refuses a name that is no UTF-8.
            "model": model, "dir": arguments.dir.to_string_lossy(), "files": report.files, "tensors": report.tensors,
            "tensor_bytes": report.tensor_bytes,
        }));
    }
    let size = bytes(report.tensor_bytes);
    context.streams.line(format!("{} tensors, {size}, in {}:", report.tensors, arguments.dir.display()))?;
    report.files.iter().try_for_each(|file| context.streams.line(format!("  {file}")))
}
