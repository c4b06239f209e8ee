//! `blyan release`, `blyan releases` and `blyan rollback`.

use blyan_core::manager::{self, Snapshot};
use serde_json::{Value, json};

use super::Context;
use crate::arguments::{Release, Releases, Rollback};
use crate::error::CliError;
use crate::names;
use crate::output::table;

pub(super) fn release(context: &mut Context<'_, '_>, arguments: &Release) -> Result<(), CliError> {
    let chain = names::open_to_write(context.chain)?;
    let model = names::snapshot(&chain, arguments.model.as_deref())?.model_block(&chain)?;
    let block = manager::release(&chain, &model, &arguments.name, arguments.version.clone())?;
    if context.json {
        return context.streams.json(&json!({
            "release": block, "name": arguments.name, "version": arguments.version.to_string(), "model": model,
        }));
    }
    context.streams.line(format!("{} {} is model {model}", arguments.name, arguments.version))
}

pub(super) fn releases(context: &mut Context<'_, '_>, arguments: &Releases) -> Result<(), CliError> {
    let chain = names::open(context.chain)?;
    let mut releases = manager::releases(&chain)?;
    releases.retain(|release| arguments.name.as_ref().is_none_or(|name| *name == release.name));
    if context.json {
        let releases = releases.iter().map(|release| {
            json!({
                "release": release.block, "name": release.name, "version": release.version.to_string(),
                "model": release.model, "predecessor": release.predecessor,
            })
        });
        return context.streams.json(&json!({ "releases": releases.collect::<Value>() }));
    }
    if releases.is_empty() {
        return context.streams.line("no releases");
    }
    let rows: Vec<Vec<String>> = releases
        .iter()
        .map(|release| {
            let (version, model) = (release.version.to_string(), release.model.to_string());
            vec![release.name.clone(), version, model]
        })
        .collect();
    context.streams.print(&table(&["name", "version", "model"], &rows, &[]))
}

pub(super) fn rollback(context: &mut Context<'_, '_>, arguments: &Rollback) -> Result<(), CliError> {
    let chain = names::open_to_write(context.chain)?;
    let to = names::snapshot(&chain, Some(&arguments.to))?.model_block(&chain)?;
    let current = names::snapshot(&chain, arguments.model.name.as_deref())?.model_block(&chain)?;
    if let Some((name, version)) = &arguments.release {
        // Before the model is appended: it would stay.
        let model = manager::rollback_block(&chain, &current, &to, &arguments.reason)?;
        manager::find_release(&chain, &model, name, version)?;
    }
    let model = manager::rollback(&chain, &current, &to, &arguments.reason)?;
    let release = match &arguments.release {
        Some((name, version)) => Some(manager::release(&chain, &model, name, version.clone())?),
        None => None,
    };
    let version = chain.get(&model)?.header().version.to_string();
    if context.json {
        let root = Snapshot::of_model(&chain, &model)?.root();
        return context.streams.json(&json!({
            "model": model, "version": version, "root": root, "to": to, "current": current, "release": release,
        }));
    }
    context.streams.line(format!(
        "model {model} {version} follows {} with the slots of {}",
        current.short(),
        to.short()
    ))?;
    match &arguments.release {
        Some((name, version)) => context.streams.line(format!("{name} {version} is this model")),
        None => Ok(()),
    }
}
