//! Counts of use as they are kept in a chain's directory: by a model, over processes, and in the face of
//! damage.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::checkpoints::{fixture, import_into};
use blyan_core::chain::VerifyOptions;
use blyan_core::manager::{GenerateOptions, Generation, ManagerOptions, MoEModelManager};
use blyan_core::usage::{UsageSnapshot, UsageTracker};
use blyan_core::{BlockHash, Chain};
use tempfile::TempDir;

const PROMPT: [u32; 3] = [3, 17, 40];

/// A chain in a directory, with one model.
struct Place {
    dir: TempDir,
    model: BlockHash,
}

impl Place {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let model = import_into(&Chain::open(dir.path()).unwrap(), &fixture("olmoe"), None);
        Self { dir, model }
    }

    fn open(&self) -> MoEModelManager {
        open(self.dir.path())
    }

    fn file(&self, extension: &str) -> PathBuf {
        self.dir.path().join("usage").join(format!("{}.{extension}", self.model))
    }
}

/// Opens the model as a process that only runs it does.
fn open(dir: &Path) -> MoEModelManager {
    let chain = Chain::open_read_only(dir).unwrap();
    let options = ManagerOptions { threads: Some(1), ..ManagerOptions::default() };
    MoEModelManager::open(&chain, &options).unwrap()
}

fn generate(model: &MoEModelManager) -> Generation {
    let options = GenerateOptions { max_tokens: Some(4), ignore_eos: true, ..GenerateOptions::default() };
    model.generate(PROMPT, &options).unwrap()
}

/// What does not depend on the clock: calls, tokens and weights of each expert, and pairs.
type Counted = (Vec<(String, u64, u64, f64)>, Vec<((u32, u32, u32), u64)>);

fn counted(usage: &UsageTracker) -> Counted {
    counted_times(usage, 1)
}

/// The same, as if everything had been done `times` as often.
fn counted_times(usage: &UsageTracker, times: u64) -> Counted {
    let UsageSnapshot { experts, co_use, .. } = usage.snapshot();
    let expert = |e: blyan_core::usage::ExpertUsage| {
        (e.slot, e.calls * times, e.tokens * times, e.weight_sum * times as f64)
    };
    let pair = |p: blyan_core::usage::CoUse| ((p.layer, p.experts.0, p.experts.1), p.tokens * times);
    (experts.into_iter().map(expert).collect(), co_use.into_iter().map(pair).collect())
}

#[test]
fn counts_outlive_the_process_and_are_no_part_of_the_chain() {
    let place = Place::new();
    let root = Chain::open_read_only(place.dir.path()).unwrap().root().unwrap();
    let model = place.open();
    assert!(model.usage().snapshot().experts.is_empty());
    generate(&model);
    let before = model.usage().snapshot();
    assert_eq!(before.model, place.model);
    assert!(before.experts.iter().all(|expert| {
        expert.latency_mean_ns.is_some() && expert.latency_p95_ns.is_some() && expert.last_used_ms.is_some()
    }));
    model.usage().flush().unwrap();
    assert_eq!(model.usage().snapshot(), before, "what is stored is not counted twice");
    assert_eq!(place.open().usage().snapshot(), before, "another process sees it at once");

    generate(&model);
    let before = model.usage().snapshot();
    drop(model);
    let model = place.open();
    assert_eq!(model.usage().snapshot(), before, "what was not flushed is stored at the end");
    generate(&model);
    let other = Place::new();
    let once = other.open();
    generate(&once);
    assert_eq!(counted(model.usage()), counted_times(once.usage(), 3), "counting goes on");
    drop(model);

    let names: Vec<_> =
        fs::read_dir(place.dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    let mut names: Vec<_> = names.iter().map(|name| name.to_str().unwrap()).collect();
    names.sort_unstable();
    assert_eq!(names, ["index.redb", "payloads", "tmp", "usage"]);
    assert!(place.file("usage").exists());
    let chain = Chain::open(place.dir.path()).unwrap();
    assert_eq!(chain.root().unwrap(), root);
    assert!(chain.verify(&VerifyOptions::full()).unwrap().is_ok());
}

#[test]
fn nothing_is_stored_where_it_is_not_wanted() {
    let place = Place::new();
    let chain = Chain::open_read_only(place.dir.path()).unwrap();
    let options = ManagerOptions { persist_usage: false, ..ManagerOptions::default() };
    let model = MoEModelManager::open(&chain, &options).unwrap();
    generate(&model);
    model.usage().flush().unwrap();
    assert!(!model.usage().snapshot().experts.is_empty());
    drop(model);
    assert!(!place.dir.path().join("usage").exists());
}

/// Set for a process that runs the model: the chain's directory.
const CHILD: &str = "BLYAN_USAGE_CHILD";
const ROUNDS: u64 = 25;

#[test]
fn processes_add_to_each_others_counts() {
    let run = |model: &MoEModelManager| {
        for _ in 0..ROUNDS {
            generate(model);
            model.usage().flush().unwrap();
        }
    };
    if let Some(dir) = std::env::var_os(CHILD) {
        return run(&open(Path::new(&dir)));
    }
    let place = Place::new();
    let children: Vec<_> = (0..2)
        .map(|_| {
            Command::new(std::env::current_exe().unwrap())
                .args(["--exact", "usage::processes_add_to_each_others_counts", "--nocapture"])
                .env(CHILD, place.dir.path())
                .stdout(Stdio::null())
                .spawn()
                .unwrap()
        })
        .collect();
    // Two models of one process are no different.
    let models = [place.open(), place.open()];
    std::thread::scope(|scope| {
        for model in &models {
            scope.spawn(|| run(model));
        }
    });
    for mut child in children {
        assert!(child.wait().unwrap().success());
    }
    let other = Place::new();
    let once = other.open();
    generate(&once);
    let expected = counted_times(once.usage(), 4 * ROUNDS);
    assert_eq!(counted(place.open().usage()), expected);
    for model in &models {
        model.usage().flush().unwrap();
        assert_eq!(counted(model.usage()), expected, "a flush takes note of the others' counts");
    }
}

#[test]
fn a_reset_is_stored_and_leaves_what_others_have_not_stored_yet() {
    let place = Place::new();
    let (model, other) = (place.open(), place.open());
    generate(&model);
    model.usage().flush().unwrap();
    generate(&model);
    generate(&other);
    let once = counted(other.usage());
    model.usage().reset().unwrap();
    assert_eq!(model.usage().snapshot().experts, []);
    assert_eq!(model.usage().snapshot().co_use, []);
    assert_eq!(place.open().usage().snapshot().experts, []);
    drop(model);
    assert_eq!(place.open().usage().snapshot().experts, [], "what was not flushed is gone as well");
    drop(other);
    assert_eq!(counted(place.open().usage()), once);
}

#[test]
fn a_damaged_file_stops_no_model_and_is_kept_aside() {
    let place = Place::new();
    let model = place.open();
    let expected = generate(&model);
    let once = counted(model.usage());
    drop(model);
    let good = fs::read(place.file("usage")).unwrap();
    let changed = |at: usize, bit: u8| {
        let mut bytes = good.clone();
        bytes[at] ^= bit;
        bytes
    };
    let mut damages = vec![
        ("empty", Vec::new()),
        ("magic", changed(0, 1)),
        ("version", changed(8, 2)),
        ("zeros", vec![0; good.len()]),
        ("longer", [&good[..], &[0]].concat()),
        ("of another model", {
            let place = tempfile::tempdir().unwrap();
            let model = import_into(&Chain::open(place.path()).unwrap(), &fixture("mixtral"), None);
            generate(&open(place.path()));
            fs::read(place.path().join(format!("usage/{model}.usage"))).unwrap()
        }),
    ];
    damages.extend((10..good.len()).step_by(97).map(|at| ("a bit", changed(at, 16))));
    damages.extend((1..good.len()).step_by(211).map(|len| ("truncated", good[..len].to_vec())));
    for (what, bytes) in damages {
        assert_ne!(bytes, good);
        fs::write(place.file("usage"), &bytes).unwrap();
        let model = place.open();
        assert!(model.usage().snapshot().experts.is_empty(), "{what}");
        assert_eq!(fs::read(place.file("damaged")).unwrap(), bytes, "{what}");
        assert_eq!(generate(&model), expected, "{what}");
        model.usage().flush().unwrap();
        drop(model);
        assert_eq!(counted(place.open().usage()), once, "{what}: counting begins again");
    }
}

#[test]
fn a_file_damaged_while_a_model_runs_stops_nothing() {
    let place = Place::new();
    let model = place.open();
    let expected = generate(&model);
    let once = counted(model.usage());
    model.usage().flush().unwrap();
    fs::write(place.file("usage"), b"damaged").unwrap();
    assert_eq!(generate(&model), expected);
    model.usage().flush().unwrap();
    assert_eq!(counted(place.open().usage()), once, "what was counted since the last flush is kept");
}

#[test]
fn where_nothing_can_be_stored_the_model_runs_and_counts() {
    // A file where the folder would be, and a folder where the file would be.
    type Obstruct = fn(&Place);
    let obstructions: [Obstruct; 2] = [
        |place| fs::write(place.dir.path().join("usage"), b"").unwrap(),
        |place| fs::create_dir_all(place.file("usage").join("full")).unwrap(),
    ];
    let other = Place::new();
    let once = other.open();
    let expected = generate(&once);
    for obstruct in obstructions {
        let place = Place::new();
        obstruct(&place);
        let model = place.open();
        assert_eq!(generate(&model), expected);
        model.usage().flush().unwrap_err();
        model.usage().reset().unwrap_err();
        assert_eq!(counted(model.usage()), counted(once.usage()), "nothing is lost by a refusal");
        generate(&model);
        assert_eq!(counted(model.usage()), counted_times(once.usage(), 2));
        let usage = place.dir.path().join("usage");
        if usage.is_dir() {
            fs::remove_dir_all(usage).unwrap()
        } else {
            fs::remove_file(usage).unwrap()
        }
        model.usage().flush().unwrap();
        assert_eq!(
            counted(place.open().usage()),
            counted_times(once.usage(), 2),
            "it is stored when it can be"
        );
    }
}
