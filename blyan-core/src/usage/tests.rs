use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::{Arc, Mutex, mpsc};
use std::time::{Duration, Instant};

use proptest::prelude::*;

use super::*;
use crate::hash::BlockHash;

/// A model of `layers` layers with `experts` experts each.
fn layout(layers: u32, experts: u32) -> UsageLayout {
    let block = |name: String| BlockHash::of_header(name.as_bytes());
    let layer = |l: u32| (0..experts).map(|e| block(format!("{l}.{e}"))).collect();
    UsageLayout { model: block("model".to_owned()), experts: (0..layers).map(layer).collect() }
}

fn used(expert: u32, tokens: u32, weight_sum: f32, nanos: u64) -> ExpertUse {
    ExpertUse { expert, tokens, weight_sum, nanos }
}

fn files(dir: &Path) -> Vec<String> {
    let names = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut endings: Vec<String> = names.map(|name| name.rsplit_once('.').unwrap().1.to_owned()).collect();
    endings.sort();
    endings
}

fn stored(dir: &Path) -> std::path::PathBuf {
    dir.join(format!("{}.usage", layout(1, 1).model))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    #[test]
    fn counts_are_those_of_a_list_of_events(
        events in prop::collection::vec(
            (0..3_u32, 0..5_u32, 1..100_u32, 0..1000_u32, 0..3_000_000_u64, 0..9_u64), 0..80),
        tokens in prop::collection::vec((0..3_u32, 0..5_u32, 0..5_u32, 0..5_u32), 0..50),
        flushes in prop::collection::vec(any::<bool>(), 80),
    ) {
        let dir = tempfile::tempdir().unwrap();
        let mut tracker = UsageTracker::open(layout(3, 5), Some(dir.path()));
        for ((layer, expert, tokens, weight, nanos, now), flush) in events.iter().copied().zip(flushes) {
            tracker.record_at(layer, &[used(expert, tokens, weight as f32 / 64.0, nanos)], now);
            if flush {
                // Half of the counts are stored ones, and some have gone through a reader.
                tracker.flush().unwrap();
                tracker = UsageTracker::open(layout(3, 5), Some(dir.path()));
            }
        }
        let mut pairs: BTreeMap<(u32, u32, u32), u64> = BTreeMap::new();
        for &(layer, a, b, c) in &tokens {
            tracker.record_together(layer, &[a, b, c], 3);
            for (x, y) in [(a, b), (a, c), (b, c)] {
                if x != y {
                    *pairs.entry((layer, x.min(y), x.max(y))).or_default() += 1;
                }
            }
        }
        let found = tracker.co_use().into_iter().map(|p| ((p.layer, p.experts.0, p.experts.1), p.tokens));
        prop_assert_eq!(found.collect::<BTreeMap<_, _>>(), pairs);

        for expert in tracker.experts() {
            prop_assert_eq!(tracker.get(expert.layer, expert.expert), Some(expert.clone()));
            let mine = |l: u32, e: u32| l == expert.layer && e == expert.expert;
            let calls: Vec<_> = events.iter().filter(|e| mine(e.0, e.1)).collect();
            let weight = |events: &[&(u32, u32, u32, u32, u64, u64)]| {
                events.iter().map(|e| f64::from(e.3) / 64.0).sum::<f64>()
            };
            let layer: Vec<_> = events.iter().filter(|e| e.0 == expert.layer).collect();
            prop_assert_eq!(expert.calls, calls.len() as u64);
            prop_assert_eq!(expert.tokens, calls.iter().map(|e| u64::from(e.2)).sum::<u64>());
            prop_assert_eq!(expert.weight_sum, weight(&calls));
            let share = if weight(&layer) == 0.0 { 0.0 } else { weight(&calls) / weight(&layer) };
            prop_assert_eq!(expert.weight_share, share);
            prop_assert_eq!(expert.last_used_ms, calls.iter().map(|e| e.5).max().filter(|&ms| ms > 0));
            let mut nanos: Vec<u64> = calls.iter().map(|e| e.4).collect();
            nanos.sort_unstable();
            let mean = nanos.iter().sum::<u64>() as f64 / nanos.len() as f64;
            prop_assert_eq!(expert.latency_mean_ns, (!nanos.is_empty()).then_some(mean));
            let rank = (nanos.len() as f64 * 0.95).ceil() as usize;
            let p95 = rank.checked_sub(1).map(|place| nanos[place].max(256) as f64);
            prop_assert_eq!(expert.latency_p95_ns.is_some(), p95.is_some());
            if let (Some(found), Some(exact)) = (expert.latency_p95_ns, p95) {
                prop_assert!((found / exact - 1.0).abs() <= 0.0626, "{} {}", found, exact);
            }
        }
    }
}

#[test]
fn experts_are_found_by_place_name_and_rank() {
    let tracker = UsageTracker::open(layout(2, 3), None);
    tracker.record(0, &[used(1, 5, 2.5, 1000), used(2, 7, 7.5, 1000)]);
    tracker.record(1, &[used(0, 7, 1.0, 1000)]);
    let names: Vec<String> = tracker.top(9).into_iter().map(|expert| expert.slot).collect();
    assert_eq!(names, ["layer0.expert2", "layer1.expert0", "layer0.expert1"]);
    assert_eq!(tracker.top(1).len(), 1);
    let expert = tracker.by_name("layer0.expert2").unwrap();
    assert_eq!((expert.layer, expert.expert, expert.weight_share), (0, 2, 0.75));
    assert_eq!(expert.block, layout(2, 3).experts[0][2]);
    assert!(expert.last_used_ms.unwrap() > 1_700_000_000_000);
    assert_eq!(tracker.by_name("layer1.expert1").unwrap().calls, 0);
    assert!(matches!(tracker.by_name("layer0.expert3"), Err(UsageError::NoExpert { .. })));
    assert!(matches!(tracker.by_name("layer0.router"), Err(UsageError::NoExpert { .. })));
    assert!(matches!(tracker.by_name("expert"), Err(UsageError::Slot(_))));
    let snapshot = serde_json::to_value(tracker.snapshot()).unwrap();
    assert_eq!(snapshot["experts"][0]["slot"], "layer0.expert1");
    assert_eq!(snapshot["experts"].as_array().unwrap().len(), 3);
}

#[test]
fn what_does_not_exist_counts_for_nothing() {
    let tracker = UsageTracker::open(layout(1, 2), None);
    tracker.record(1, &[used(0, 1, 1.0, 1)]);
    tracker.record(0, &[used(2, 1, 1.0, 1)]);
    tracker.record(0, &[used(0, 1, f32::NAN, 1), used(0, 1, -3.0, 1)]);
    tracker.record_together(0, &[0, 5, u32::MAX, 0, 1, 1], 3);
    tracker.record_together(9, &[0, 1], 2);
    tracker.record_together(0, &[0, 1], 0);
    assert_eq!(tracker.get(0, 0).unwrap().weight_sum, 0.0);
    assert_eq!(tracker.get(0, 0).unwrap().calls, 2);
    assert_eq!((tracker.get(0, 2), tracker.get(1, 0)), (None, None));
    let pairs: Vec<_> = tracker.co_use().iter().map(|pair| (pair.experts, pair.tokens)).collect();
    assert_eq!(pairs, [((0, 1), 2)]);
    // Nor do pairs of more experts than any model has: they would take the square of that.
    let wide = UsageTracker::open(layout(1, 1025), None);
    wide.record_together(0, &[0, 1], 2);
    assert_eq!(wide.co_use(), []);
}

#[test]
fn counts_outlive_the_tracker_and_a_reset_does_too() {
    let dir = tempfile::tempdir().unwrap();
    let usage = dir.path().join("usage");
    let open = || UsageTracker::open(layout(2, 3), Some(&usage));
    let tracker = open();
    drop(open());
    assert!(!usage.exists(), "nothing counted, nothing written");
    tracker.record(1, &[used(2, 3, 0.5, 1000)]);
    let before = tracker.experts();
    drop(tracker);
    let tracker = open();
    assert_eq!(tracker.experts(), before);
    tracker.record(1, &[used(2, 3, 0.5, 1000)]);
    tracker.reset().unwrap();
    assert_eq!(tracker.top(9), []);
    drop(tracker);
    assert_eq!(open().top(9), []);
    assert_eq!(files(&usage), ["lock", "usage"]);
}

#[test]
fn trackers_of_one_chain_add_up() {
    let dir = tempfile::tempdir().unwrap();
    let open = || UsageTracker::open(layout(1, 2), Some(dir.path()));
    let (a, b) = (open(), open());
    for _ in 0..5 {
        a.record(0, &[used(0, 1, 1.0, 500)]);
        a.flush().unwrap();
        b.record(0, &[used(0, 10, 1.0, 500), used(1, 1, 1.0, 500)]);
        b.flush().unwrap();
    }
    assert_eq!(b.get(0, 0).unwrap().tokens, 55);
    assert_eq!(a.get(0, 0).unwrap().tokens, 45, "as of its last flush");
    a.flush().unwrap();
    assert_eq!(a.get(0, 0).unwrap().tokens, 55);
    drop((a, b));
    assert_eq!(open().get(0, 0).unwrap().calls, 10);
}

const CHILD: &str = "BLYAN_TEST_USAGE_DIR";

/// Does nothing unless [`processes_add_up`] starts it.
#[test]
fn child_process() {
    let Some(dir) = std::env::var_os(CHILD) else { return };
    let tracker = UsageTracker::open(layout(1, 2), Some(Path::new(&dir)));
    let tracker = tracker.flush_every(Duration::from_millis(1));
    for _ in 0..500 {
        tracker.record(0, &[used(1, 2, 0.25, 700)]);
        tracker.record_together(0, &[0, 1], 2);
        std::thread::sleep(Duration::from_micros(200));
    }
}

#[test]
fn processes_add_up() {
    let dir = tempfile::tempdir().unwrap();
    let start = || {
        std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "usage::tests::child_process"])
            .env(CHILD, dir.path())
            .stdout(std::process::Stdio::null())
            .spawn()
            .unwrap()
    };
    let children: Vec<_> = (0..4).map(|_| start()).collect();
    for mut child in children {
        assert!(child.wait().unwrap().success());
    }
    let tracker = UsageTracker::open(layout(1, 2), Some(dir.path()));
    let expert = tracker.get(0, 1).unwrap();
    assert_eq!((expert.calls, expert.tokens, expert.weight_sum), (2000, 4000, 500.0));
    assert_eq!(tracker.co_use()[0].tokens, 2000);
}

#[test]
fn nothing_is_lost_while_flushing() {
    let dir = tempfile::tempdir().unwrap();
    let tracker = UsageTracker::open(layout(1, 4), Some(dir.path()));
    let (threads, records) = (4, 5000);
    std::thread::scope(|scope| {
        for expert in 0..threads {
            let tracker = &tracker;
            scope.spawn(move || {
                for _ in 0..records {
                    tracker.record(0, &[used(expert % 2, 1, 1.0, 300)]);
                    tracker.record_together(0, &[0, 1], 2);
                }
            });
        }
        for _ in 0..20 {
            tracker.flush().unwrap();
        }
    });
    let total = |tracker: &UsageTracker| tracker.experts().iter().map(|expert| expert.calls).sum::<u64>();
    assert_eq!(total(&tracker), u64::from(threads) * records);
    drop(tracker);
    let tracker = UsageTracker::open(layout(1, 4), Some(dir.path()));
    assert_eq!(total(&tracker), u64::from(threads) * records);
    assert_eq!(tracker.co_use()[0].tokens, u64::from(threads) * records);
}

#[test]
fn the_background_stores_what_was_counted() {
    let dir = tempfile::tempdir().unwrap();
    let tracker = UsageTracker::open(layout(1, 1), Some(dir.path())).flush_every(Duration::from_millis(5));
    tracker.record(0, &[used(0, 1, 1.0, 300)]);
    let start = Instant::now();
    while !stored(dir.path()).exists() {
        assert!(start.elapsed() < Duration::from_secs(20));
        std::thread::sleep(Duration::from_millis(2));
    }
    let other = UsageTracker::open(layout(1, 1), Some(dir.path()));
    assert_eq!(other.get(0, 0).unwrap().calls, 1);
    // An interval that is not over does not delay the end.
    let start = Instant::now();
    drop(UsageTracker::open(layout(1, 1), Some(dir.path())).flush_every(Duration::from_secs(3600)));
    assert!(start.elapsed() < Duration::from_secs(60));
}

#[test]
fn damaged_files_are_moved_aside() {
    let dir = tempfile::tempdir().unwrap();
    let open = || UsageTracker::open(layout(1, 2), Some(dir.path()));
    let path = stored(dir.path());
    let tracker = open();
    tracker.record(0, &[used(1, 1, 1.0, 300)]);
    tracker.record_together(0, &[0, 1], 2);
    drop(tracker);
    let good = fs::read(&path).unwrap();
    let flip = |place: usize| {
        let mut bytes = good.clone();
        bytes[place] ^= 1 << (place % 8);
        bytes
    };
    let flipped = (0..good.len()).map(flip);
    for bytes in flipped.chain((0..good.len()).map(|len| good[..len].to_vec())) {
        fs::write(&path, &bytes).unwrap();
        let tracker = open();
        assert_eq!(tracker.top(1), [], "{bytes:?}");
        assert!(!path.exists());
        assert_eq!(fs::read(path.with_extension("damaged")).unwrap(), bytes);
    }
    // A file of a model of other sizes, with a right checksum.
    fs::write(&path, &good).unwrap();
    assert_eq!(UsageTracker::open(layout(1, 3), Some(dir.path())).top(1), []);
    // Damage that happens between two flushes.
    let tracker = open();
    tracker.record(0, &[used(0, 1, 1.0, 300)]);
    fs::write(&path, b"BLYANUSE").unwrap();
    tracker.flush().unwrap();
    assert_eq!(tracker.get(0, 0).unwrap().calls, 1);
    drop(tracker);
    assert_eq!(open().get(0, 0).unwrap().calls, 1);
}

/// How many experts were found, and whether a flush succeeded; `None` if that had to wait.
type Answer = Option<(usize, bool)>;

/// Asks for counts, and for a flush, when it hears of something.
struct Listener {
    tracker: Arc<UsageTracker>,
    answers: Arc<Mutex<Vec<Answer>>>,
}

impl tracing::Subscriber for Listener {
    fn enabled(&self, _: &tracing::Metadata<'_>) -> bool {
        true
    }

    fn event(&self, _: &tracing::Event<'_>) {
        let (tracker, (answer, answered)) = (Arc::clone(&self.tracker), mpsc::channel());
        std::thread::spawn(move || answer.send((tracker.top(9).len(), tracker.flush().is_ok())));
        self.answers.lock().unwrap().push(answered.recv_timeout(Duration::from_secs(20)).ok());
    }

    fn new_span(&self, _: &tracing::span::Attributes<'_>) -> tracing::span::Id {
        tracing::span::Id::from_u64(1)
    }

    fn record(&self, _: &tracing::span::Id, _: &tracing::span::Record<'_>) {}

    fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}

    fn enter(&self, _: &tracing::span::Id) {}

    fn exit(&self, _: &tracing::span::Id) {}
}

/// The warning was given under the locks: a log callback that asked for usage waited for itself.
#[test]
fn who_hears_of_damage_may_ask_for_counts() {
    let dir = tempfile::tempdir().unwrap();
    let tracker = Arc::new(UsageTracker::open(layout(1, 2), Some(dir.path())));
    let answers = Arc::new(Mutex::new(Vec::new()));
    let listener = Listener { tracker: Arc::clone(&tracker), answers: Arc::clone(&answers) };
    tracing::subscriber::with_default(listener, || {
        // With something to store, and without.
        tracker.record(0, &[used(1, 1, 1.0, 300)]);
        for _ in 0..2 {
            fs::write(stored(dir.path()), b"rubbish").unwrap();
            tracker.flush().unwrap();
        }
    });
    assert_eq!(*answers.lock().unwrap(), [Some((1, true)), Some((0, true))]);
}

#[test]
fn what_cannot_be_stored_is_kept() {
    let dir = tempfile::tempdir().unwrap();
    let blocked = dir.path().join("file");
    fs::write(&blocked, b"").unwrap();
    let usage = blocked.join("usage");
    let tracker = UsageTracker::open(layout(1, 2), Some(&usage));
    tracker.record(0, &[used(1, 4, 1.5, 300)]);
    tracker.record_together(0, &[1, 0], 2);
    let before = tracker.snapshot();
    assert!(matches!(tracker.flush(), Err(UsageError::Io { .. })));
    assert_eq!(tracker.snapshot(), before);
    assert!(matches!(tracker.reset(), Err(UsageError::Io { .. })));
    assert_eq!(tracker.snapshot(), before);
    fs::remove_file(&blocked).unwrap();
    tracker.flush().unwrap();
    drop(tracker);
    assert_eq!(UsageTracker::open(layout(1, 2), Some(&usage)).snapshot(), before);
}

#[test]
fn a_held_lock_is_an_error_and_not_a_hang() {
    let dir = tempfile::tempdir().unwrap();
    let tracker = UsageTracker::open(layout(1, 1), Some(dir.path()));
    tracker.record(0, &[used(0, 1, 1.0, 300)]);
    let holder = fs::File::create(stored(dir.path()).with_extension("lock")).unwrap();
    holder.lock().unwrap();
    assert!(matches!(tracker.flush(), Err(UsageError::Locked { .. })));
    holder.unlock().unwrap();
    tracker.flush().unwrap();
}
