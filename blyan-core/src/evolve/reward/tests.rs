//! Adding nothing gains nothing: random worlds, and everything that a greedy author could try in them.

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

/// Keys from this number on, and key 0, are the attacker's.
const SYBILS: u8 = 100;
const POOL: u64 = 1_000_000_007;
/// The period that is paid.
const NOW: u64 = 3;

fn key(number: u8) -> PublicKey {
    PublicKey::from_bytes([number; 32])
}

fn is_attacker(key: &PublicKey) -> bool {
    let number = key.as_bytes()[0];
    number == 0 || number >= SYBILS
}

fn bytes(number: u32) -> [u8; 32] {
    // Spread, so that the order of hashes says nothing about the order in which they were made.
    let mut bytes = [0; 32];
    bytes[..4].copy_from_slice(&number.wrapping_mul(0x9e37_79b1).to_be_bytes());
    bytes
}

fn block(number: u32) -> BlockHash {
    BlockHash::from_bytes(bytes(number))
}

fn slot(number: u32) -> Slot {
    Slot::Expert { layer: 0, expert: number }
}

fn losses(base: f64, candidate: f64) -> Measured {
    Measured { base: base.to_bits(), candidate: candidate.to_bits() }
}

fn judged(base: f64, candidate: f64) -> Worth {
    Worth { split: losses(base, candidate), datasets: vec![] }
}

fn replacement(number: u32, replaced: Option<BlockHash>, new: u32) -> Replacement {
    let payload = PayloadHash::from_bytes(bytes(new));
    Replacement { slot: slot(number), replaced, block: block(new), payload }
}

const SLOTS: u32 = 4;
/// Blocks of the first model are numbered from 1, later ones from here.
const FIRST_NEW: u32 = 10;
/// Blocks and claims of the attacker's tricks.
const EXTRA: u32 = 10_000;

#[derive(Debug, Clone)]
struct World {
    adoptions: Vec<Adoption>,
    uses: Vec<Use>,
    /// What is in each slot at the end.
    current: Vec<BlockHash>,
}

impl World {
    fn shares(&self) -> Vec<Share> {
        rewards(NOW, &self.adoptions, &self.uses, POOL)
    }

    fn attacker(&self) -> u64 {
        let shares = self.shares();
        shares.iter().filter(|share| is_attacker(&share.author)).map(|share| share.units).sum()
    }

    fn weight(&self) -> u128 {
        let shares = self.shares();
        shares.iter().filter(|share| is_attacker(&share.author)).map(|share| share.weight).sum()
    }

    /// Uses of a new block, as many as of another.
    fn use_too(&mut self, new: BlockHash, like: BlockHash) {
        for used in &mut self.uses {
            if let Some(&tokens) = used.tokens.get(&like) {
                used.tokens.insert(new, tokens);
            }
        }
    }
}

/// (author, slots as bits, loss with it alone, loss on a dataset with it alone)
type Made = (u8, u32, f64, f64);

fn candidates() -> impl Strategy<Value = Vec<Made>> {
    vec((0u8..4, 1u32..1 << SLOTS, 1.5..2.1, 1.9..2.05), 1..4)
}

fn worlds() -> impl Strategy<Value = World> {
    let adoptions = vec((0..=NOW, candidates(), 1.2..2.05), 1..6);
    let uses = vec((0u8..12, 0..=NOW + 1, vec((0u32..40, 0u64..1000), 0..12)), 0..12);
    (adoptions, uses).prop_map(|(mut made, uses)| {
        made.sort_by_key(|(period, ..)| *period);
        let mut current: Vec<BlockHash> = (1..=SLOTS).map(block).collect();
        let (mut adoptions, mut next) = (Vec::new(), FIRST_NEW);
        for (period, candidates, together) in made {
            let mut contributions = Vec::new();
            let mut taken = 0;
            for (author, slots, alone, dataset) in candidates {
                // Blocks that are pinned together fill different slots.
                let slots = slots & !taken;
                taken |= slots;
                let mut replacements = Vec::new();
                for number in (0..SLOTS).filter(|number| slots >> number & 1 == 1) {
                    let place = &mut current[number as usize];
                    replacements.push(replacement(number, Some(*place), next));
                    *place = block(next);
                    next += 1;
                }
                if replacements.is_empty() {
                    continue;
                }
                let alone = Worth { split: losses(2.0, alone), datasets: vec![losses(2.0, dataset)] };
                contributions.push(Contribution {
                    author: key(author),
                    claim: block(next),
                    replacements,
                    alone,
                });
                next += 1;
            }
            let together = match &contributions[..] {
                [only] => only.alone.clone(),
                _ => judged(2.0, together),
            };
            adoptions.push(Adoption { period, together, contributions });
        }
        let uses = uses.into_iter().map(|(run, period, tokens)| {
            let tokens = tokens.into_iter().map(|(number, count)| (block(number), count)).collect();
            Use { run: [run; 32], period, tokens }
        });
        World { adoptions, uses: uses.collect(), current }
    })
}

/// A world with what the attacker honestly adds to its end: one expert, better by itself.
fn with_work(world: World, slot: u32, period: u64, base: f64, candidate: f64) -> World {
    let mut changed = world;
    let contribution = Contribution {
        author: key(0),
        claim: block(EXTRA),
        replacements: vec![replacement(slot, Some(changed.current[slot as usize]), EXTRA + 1)],
        alone: judged(base, candidate),
    };
    changed.adoptions.push(Adoption {
        period,
        together: contribution.alone.clone(),
        contributions: vec![contribution],
    });
    changed
}

fn shuffled<T>(list: &mut [T], seed: u64) {
    let mut state = seed | 1;
    for at in (1..list.len()).rev() {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        list.swap(at, (state >> 33) as usize % (at + 1));
    }
}

proptest! {
    #[test]
    fn the_pool_is_never_exceeded(world in worlds(), pool in any::<u64>()) {
        let shares = rewards(NOW, &world.adoptions, &world.uses, pool);
        prop_assert!(shares.iter().map(|share| u128::from(share.units)).sum::<u128>() <= u128::from(pool));
        prop_assert!(shares.is_sorted_by(|a, b| a.author < b.author));
    }

    #[test]
    fn order_and_repetition_change_nothing(world in worlds(), seed in any::<u64>()) {
        let mut other = world.clone();
        other.adoptions.extend(world.adoptions.clone());
        other.uses.extend(world.uses.clone());
        shuffled(&mut other.adoptions, seed);
        shuffled(&mut other.uses, seed);
        for adoption in &mut other.adoptions {
            // Within one adoption: repetition inside of equal adoptions must be the same in both.
            adoption.contributions.sort_by_key(|contribution| contribution.claim.as_bytes()[3]);
            for contribution in &mut adoption.contributions {
                contribution.replacements.sort_by_key(|replacement| replacement.block.as_bytes()[3]);
            }
        }
        prop_assert_eq!(other.shares(), world.shares());
    }

    /// Weights computed by the formula of docs/rewards.md in another way: in floats, from each
    /// candidate's point of view.
    #[test]
    fn shares_are_those_of_the_formula(world in worlds()) {
        let gain = |worth: &Worth| {
            let log = |bits: u64| f64::from_bits(bits).log2();
            let better = log(worth.split.base) - log(worth.split.candidate);
            let worse = worth.datasets.iter().map(|d| log(d.candidate) - log(d.base)).fold(0.0, f64::max);
            (better - worse).max(0.0)
        };
        let mut runs: Vec<&Use> = Vec::new();
        for run in 0..12 {
            let read = world.uses.iter().filter(|used| used.run == [run; 32] && !used.tokens.is_empty());
            runs.extend(read.min());
        }
        let through = |block: BlockHash| -> f64 {
            let now = runs.iter().filter(|used| used.period == NOW);
            now.map(|used| used.tokens.get(&block).copied().unwrap_or(0) as f64).sum()
        };
        let all = || world.adoptions.iter().flat_map(|adoption| &adoption.contributions);
        let heir = |block: BlockHash| {
            let mut replacements = all().flat_map(|contribution| &contribution.replacements);
            replacements.find(|replacement| replacement.replaced == Some(block)).map(|found| found.block)
        };
        let (mut others_full, mut mine, mut units_off) = (0.0, 0.0, 0.0);
        for adoption in &world.adoptions {
            for contribution in &adoption.contributions {
                let uses = contribution.replacements.iter().map(|replacement| {
                    let (mut sum, mut next) = (0.0, Some(replacement.block));
                    while let Some(block) = next {
                        sum += through(block);
                        next = heir(block);
                    }
                    sum
                });
                let used = uses.fold(f64::INFINITY, f64::min);
                let alone = gain(&contribution.alone);
                // Each of the logarithms in a gain or credit may be off by a unit.
                units_off += 16.0 * used / 2f64.powi(32);
                let others: f64 = adoption.contributions.iter().map(|other| gain(&other.alone)).sum::<f64>() - alone;
                let credit = alone.min((gain(&adoption.together) - others).max(0.0));
                if contribution.author == key(0) {
                    mine += credit * used;
                } else {
                    others_full += alone * used;
                }
            }
        }
        let expected = if mine > 0.0 { POOL as f64 * mine / (mine + others_full) } else { 0.0 };
        let tolerance = 2.0 + POOL as f64 * (units_off / (mine + others_full).max(1e-9) + 1e-9);
        prop_assert!((world.attacker() as f64 - expected).abs() <= tolerance);
    }

    #[test]
    fn more_keys_gain_nothing(world in worlds()) {
        let before = world.attacker();
        let mut split = world;
        let mut next = SYBILS;
        for contribution in split.adoptions.iter_mut().flat_map(|adoption| &mut adoption.contributions) {
            if is_attacker(&contribution.author) {
                contribution.author = key(next);
                next += 1;
            }
        }
        prop_assert!(split.attacker() <= before);
    }

    #[test]
    fn copying_gains_nothing(
        world in worlds(), which in any::<prop::sample::Index>(), later in 0u64..3, loss in 0.1..2.0,
        other_block in any::<bool>(), with_more in any::<bool>(), into in any::<prop::sample::Index>(),
    ) {
        let before = world.attacker();
        let mut copied = world.clone();
        let all: Vec<(u64, &Contribution)> = world.adoptions.iter()
            .flat_map(|adoption| adoption.contributions.iter().map(|c| (adoption.period, c))).collect();
        let (period, original) = which.get(&all);
        let mut replacements = original.replacements.clone();
        if other_block {
            // The same weights under another name.
            for (replacement, number) in replacements.iter_mut().zip(EXTRA..) {
                let like = std::mem::replace(&mut replacement.block, block(number));
                copied.use_too(block(number), like);
            }
        }
        if with_more {
            replacements.push(replacement(SLOTS, None, EXTRA + 50));
            copied.use_too(block(EXTRA + 50), replacements[0].block);
        }
        // The claim of a later period may have any hash; in the same period the copier's is larger,
        // or the other is the copy.
        let claim = if later == 0 { BlockHash::from_bytes([0xff; 32]) } else { block(EXTRA + 99) };
        let copy = Contribution { author: key(SYBILS), claim, replacements, alone: judged(2.0, loss) };
        let period = (period + later).min(NOW);
        prop_assume!(later == 0 || period > all.iter().find(|(_, c)| c.claim == original.claim).unwrap().0);
        if into.index(2) == 0 {
            copied.adoptions.push(Adoption { period, together: copy.alone.clone(), contributions: vec![copy] });
        } else {
            let at = into.index(copied.adoptions.len());
            prop_assume!(copied.adoptions[at].period >= period);
            copied.adoptions[at].contributions.push(copy);
        }
        prop_assert!(copied.attacker() <= before);
    }

    #[test]
    fn splitting_in_time_gains_nothing(
        world in worlds(), slot in 0..SLOTS, start in 0..=NOW, wait in 0u64..3, base in 1.0..4.0,
        first in 0.7..1.0, second in 0.7..1.0, cut in any::<u8>(), used in vec(0u64..1000, 3), sybil in any::<bool>(),
    ) {
        let (middle, end) = (base * first, base * first * second);
        let mut whole = with_work(world.clone(), slot, start, base, end);
        let mut split = with_work(world, slot, start, base, middle);
        split.adoptions.push(Adoption {
            period: start + wait,
            together: judged(middle, end),
            contributions: vec![Contribution {
                author: key(if sybil { SYBILS } else { 0 }),
                claim: block(EXTRA + 2),
                replacements: vec![replacement(slot, Some(block(EXTRA + 1)), EXTRA + 3)],
                alone: judged(middle, end),
            }],
        });
        // The same runs go through the new expert in both; of the split one, some through its first half,
        // and all of them before the second is adopted.
        let second_is_adopted = start + wait <= NOW;
        for (run, tokens) in (200..).zip(used) {
            let is_late = second_is_adopted && run % 2 != u64::from(cut % 2);
            let half = block(EXTRA + if is_late { 3 } else { 1 });
            for (world, block) in [(&mut whole, block(EXTRA + 1)), (&mut split, half)] {
                let tokens = BTreeMap::from([(block, tokens)]);
                world.uses.push(Use { run: [run as u8; 32], period: NOW, tokens });
            }
        }
        prop_assert!(split.attacker() <= whole.attacker());
    }

    /// The attacker's candidate stands beside others; instead, parts of it do. None is worth more than the
    /// whole, all have its use, and what all are worth together stays as it is.
    #[test]
    fn splitting_side_by_side_gains_nothing(
        world in worlds(), others in 1.2..2.0, whole in 1.2..2.0, parts in vec(0.0..1.0, 2..4), tokens in 1u64..1000,
        overlap in 0.0..1.0,
    ) {
        let log = |loss: f64| (2.0f64 / loss).ln();
        // What is attested of the set: between the best of it and the sum of its parts.
        let (least, most) = (log(others).max(log(whole)), log(others) + log(whole));
        let together = 2.0 / f64::exp(most - overlap * (most - least));
        let contribution = |author, number, loss| Contribution {
            author: key(author),
            claim: block(EXTRA + number),
            replacements: vec![replacement(number, None, EXTRA + 100 + number)],
            alone: judged(2.0, loss),
        };
        let set = |contributions| Adoption { period: NOW, together: judged(2.0, together), contributions };
        let mut apart = world.clone();
        let mut one = world;
        one.adoptions.push(set(vec![contribution(1, 10, others), contribution(0, 20, whole)]));
        // Each part is worth up to the whole; or they are worth what it is, divided.
        let total: f64 = parts.iter().sum();
        let divided = parts[0] < 0.5;
        let losses = parts.iter().map(|part| {
            let share = if divided { 0.999_999_999 * part / total.max(1e-9) } else { *part };
            2.0 / (share * log(whole)).exp()
        });
        let pieces = (20..).zip(losses).map(|(number, loss)| contribution(SYBILS, number, loss));
        apart.adoptions.push(set([contribution(1, 10, others)].into_iter().chain(pieces).collect()));
        let all = (110..130).map(|number| (block(EXTRA + number), tokens)).collect();
        for world in [&mut one, &mut apart] {
            world.uses.push(Use { run: [222; 32], period: NOW, tokens: BTreeMap::clone(&all) });
        }
        // Each of the few logarithms may be a unit off.
        prop_assert!(apart.weight() <= one.weight() + 8 * u128::from(tokens));
    }

    #[test]
    fn useless_experts_gain_nothing(
        world in worlds(), at in any::<prop::sample::Index>(), spam in vec((0..SLOTS, 2.0f64..2.2, 0..=NOW), 1..5),
        inside in any::<bool>(), tokens in 0u64..100_000,
    ) {
        let before = world.attacker();
        let mut spammed = world;
        let mut popular = BTreeMap::new();
        for (number, (slot, loss, period)) in (EXTRA..).step_by(2).zip(spam) {
            popular.insert(block(number), tokens);
            let useless = Contribution {
                author: key(SYBILS),
                claim: block(number + 1),
                replacements: vec![replacement(slot, None, number)],
                alone: judged(2.0, loss),
            };
            if inside {
                let at = at.index(spammed.adoptions.len());
                spammed.adoptions[at].contributions.push(useless);
            } else {
                let together = useless.alone.clone();
                spammed.adoptions.push(Adoption { period, together, contributions: vec![useless] });
            }
        }
        spammed.uses.push(Use { run: [223; 32], period: NOW, tokens: popular });
        prop_assert!(spammed.attacker() <= before);
    }

    #[test]
    fn more_slots_gain_nothing(world in worlds(), more in vec((0..2 * SLOTS, 0u64..100_000), 1..4)) {
        let before = world.attacker();
        let mut wide = world;
        let mut popular = BTreeMap::new();
        let mine = wide.adoptions.iter_mut().flat_map(|adoption| &mut adoption.contributions);
        for (at, contribution) in mine.filter(|contribution| is_attacker(&contribution.author)).enumerate() {
            for (number, (slot, tokens)) in (EXTRA + 1000 * at as u32..).zip(&more) {
                contribution.replacements.push(replacement(*slot, None, number));
                popular.insert(block(number), *tokens);
            }
        }
        wide.uses.push(Use { run: [224; 32], period: NOW, tokens: popular });
        prop_assert!(wide.attacker() <= before);
    }

    /// A candidate that finds what another one of the set found: both are found by other authors, and the
    /// attacker has work elsewhere.
    #[test]
    fn what_others_explain_gains_nothing(
        world in worlds(), loss in 1.2..2.0, other_slot in any::<bool>(), tokens in vec(0u64..1000, 3),
    ) {
        let victim = Contribution {
            author: key(1),
            claim: block(EXTRA + 200),
            replacements: vec![replacement(20, None, EXTRA + 201)],
            alone: judged(2.0, loss),
        };
        let rival = Contribution {
            author: key(SYBILS),
            claim: block(EXTRA + 202),
            replacements: vec![replacement(if other_slot { 21 } else { 20 }, None, EXTRA + 203)],
            alone: judged(2.0, loss),
        };
        let set = |contributions| Adoption { period: 0, together: judged(2.0, loss), contributions };
        let mut before = with_work(world, 0, 0, 2.0, 1.8);
        let used = [EXTRA + 1, EXTRA + 201, EXTRA + 203].map(block).into_iter().zip(tokens).collect();
        before.uses.push(Use { run: [225; 32], period: NOW, tokens: used });
        let mut after = before.clone();
        before.adoptions.push(set(vec![victim.clone()]));
        after.adoptions.push(set(vec![victim, rival]));
        prop_assert!(after.attacker() <= before.attacker());
    }

    #[test]
    fn repeating_a_run_gains_nothing(
        world in worlds(), again in vec((any::<prop::sample::Index>(), 0..=NOW + 1, 1u64..100), 1..5),
    ) {
        let before = world.attacker();
        let mut repeated = world.clone();
        prop_assume!(!world.uses.is_empty());
        for (which, later, more) in again {
            let mut used = world.uses[which.index(world.uses.len())].clone();
            // A run that is recorded again in the period it is in could only be told differently by who
            // told it first; later it may say anything.
            used.period += 1 + later;
            used.tokens.values_mut().for_each(|tokens| *tokens *= more);
            let first = world.uses.iter().filter(|known| known.run == used.run).map(|known| known.period).min();
            prop_assume!(first < Some(used.period));
            repeated.uses.push(used);
        }
        prop_assert_eq!(repeated.attacker(), before);
    }

    #[test]
    fn better_work_is_paid_no_less(
        world in worlds(), slot in 0..SLOTS, start in 0..=NOW, loss in 1.0..1.9, halvings in 0i32..5, tokens in 0u64..1000,
    ) {
        let mut good = with_work(world.clone(), slot, start, 2.0, loss);
        let mut better = with_work(world, slot, start, 2.0, loss / 2f64.powi(halvings));
        for world in [&mut good, &mut better] {
            world.uses.push(Use { run: [226; 32], period: NOW, tokens: BTreeMap::from([(block(EXTRA + 1), tokens)]) });
        }
        prop_assert!(better.attacker() >= good.attacker());
    }
}

#[test]
fn what_is_no_loss_is_no_gain() {
    let good = losses(2.0, 1.0);
    assert_eq!(Worth { split: good, datasets: vec![good] }.gain(), 1 << 32);
    for wrong in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, -1.0] {
        for split in [losses(wrong, 1.0), losses(2.0, wrong)] {
            assert_eq!(Worth { split, datasets: vec![] }.gain(), 0, "{wrong}");
            assert_eq!(Worth { split: good, datasets: vec![good, split] }.gain(), 0, "{wrong}");
        }
    }
    assert_eq!(Worth { split: losses(1.0, 2.0), datasets: vec![] }.gain(), 0);
}

#[test]
fn what_gets_worse_elsewhere_is_deducted() {
    let worse = [losses(1.0, 2.0), losses(1.0, 4.0), losses(4.0, 1.0)];
    assert_eq!(Worth { split: losses(8.0, 1.0), datasets: worse.to_vec() }.gain(), 1 << 32);
}

#[test]
fn a_circle_of_heirs_ends() {
    let circle = |claim, replaced, new| Contribution {
        author: key(1),
        claim: block(claim),
        replacements: vec![replacement(0, Some(block(replaced)), new)],
        alone: judged(2.0, 1.0),
    };
    let adoption = Adoption {
        period: 0,
        together: judged(2.0, 0.5),
        contributions: vec![circle(1, 2, 3), circle(4, 3, 2)],
    };
    let used = Use { run: [0; 32], period: 0, tokens: BTreeMap::from([(block(2), u64::MAX), (block(3), 1)]) };
    let credits = credits(0, &[adoption], &[used]);
    assert!(credits.iter().all(|credit| credit.tokens == MAX_USE));
}

#[test]
fn nothing_is_divided_into_nothing() {
    assert_eq!(rewards(0, &[], &[], u64::MAX), []);
}
