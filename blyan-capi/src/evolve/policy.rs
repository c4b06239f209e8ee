//! Owns policies: whose evidence a model takes, and how much of it.

#![expect(unsafe_code, reason = "exported symbols and pointers of the caller")]

use std::ptr;

use blyan_core::BlockHash;
use blyan_core::evolve::{Evidence, Policy, PublicKey, Tier};

use crate::chain::{blyan_chain, optional_block};
use crate::edge::{Options, init_options, new_handle, options, read, slice};
use crate::error::{Failure, Outcome, blyan_status, edge};
use crate::evolve::key::blyan_public_key;
use crate::evolve::{append, json};
use crate::hash::{block_hashes, blyan_hash};
use crate::text::blyan_text;

/// How good a dataset is held to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(i32)]
pub enum blyan_tier {
    /// Checked text of known origin.
    Gold = 0,
    /// Good text that nobody read as a whole.
    Silver = 1,
    /// Anything else worth trying.
    Experimental = 2,
}

/// The tier of a number that C gave.
pub(super) fn tier_of(tier: i32) -> Outcome<Tier> {
    let known = Tier::ALL.into_iter().find(|known| tier_number(*known) as i32 == tier);
    known.ok_or_else(|| Failure::argument(format!("tier {tier} is none: expected a blyan_tier")))
}

pub(super) fn tier_number(tier: Tier) -> blyan_tier {
    match tier {
        Tier::Gold => blyan_tier::Gold,
        Tier::Silver => blyan_tier::Silver,
        Tier::Experimental => blyan_tier::Experimental,
    }
}

/// All tiers, each as a bit.
const ALL_TIERS: u32 = 7;

/// Whose word counts on a model, and how much improvement is enough. Fill it with `blyan_policy_init` first.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct blyan_policy {
    /// `sizeof(blyan_policy)`.
    pub size: usize,
    /// The model block that everything begins with.
    pub model: *const blyan_hash,
    /// The policy that this one takes the place of; by default NULL.
    pub predecessor: *const blyan_hash,
    /// Keys whose audits, rounds and attestations count, in any order.
    pub validators: *const blyan_public_key,
    /// Number of these keys.
    pub validators_len: usize,
    /// Keys whose votes on datasets count, in any order.
    pub voters: *const blyan_public_key,
    /// Number of these keys.
    pub voters_len: usize,
    /// Dataset blocks on which no candidate may be worse, in any order.
    pub datasets: *const blyan_hash,
    /// Number of these blocks.
    pub datasets_len: usize,
    /// Validators that must attest the same bits; by default 0: all of them.
    pub required: u32,
    /// Least improvement of the loss, relative to it, in parts per million; 10000 by default.
    pub threshold_ppm: u32,
    /// Most that the loss on any dataset may get worse, relative to it, in parts per million; 1000 by
    /// default.
    pub tolerance_ppm: u32,
    /// Votes that a tally needs; 1 by default.
    pub quorum: u32,
    /// Share of the counted votes that must be for a dataset, in parts per million; 500001 by default.
    pub approval_ppm: u32,
    /// Tokens that an evaluation window predicts; 256 by default.
    pub window: u32,
    /// Tiers of datasets that may be voted on: the sum of `1 << tier` for each; by default all.
    pub tiers: u32,
    /// 0.
    pub reserved: u32,
}

// SAFETY: numbers and pointers alone, the size first.
unsafe impl Options for blyan_policy {
    fn defaults(size: usize) -> Self {
        let Policy { threshold_ppm, tolerance_ppm, quorum, approval_ppm, window, .. } =
            Policy::new(BlockHash::from_bytes([0; 32]), []);
        Self {
            size,
            model: ptr::null(),
            predecessor: ptr::null(),
            validators: ptr::null(),
            validators_len: 0,
            voters: ptr::null(),
            voters_len: 0,
            datasets: ptr::null(),
            datasets_len: 0,
            required: 0,
            threshold_ppm,
            tolerance_ppm,
            quorum,
            approval_ppm,
            window,
            tiers: ALL_TIERS,
            reserved: 0,
        }
    }
}

/// Fills a policy with its defaults; `size` is `sizeof *policy`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn blyan_policy_init(policy: *mut blyan_policy, size: usize) -> blyan_status {
    // SAFETY: the caller's pointer, as the header asks.
    edge(|| unsafe { init_options(policy, size) })
}

/// # Safety
///
/// NULL or a policy whose pointers are valid.
unsafe fn policy_of(policy: *const blyan_policy) -> Outcome<Policy> {
    // SAFETY: the caller's promise.
    let given = unsafe {
        read(policy, "policy")?;
        options(policy, "policy")?
    };
    // SAFETY: as above.
    let (model, predecessor, validators, voters, datasets) = unsafe {
        (
            read(given.model, "model")?.block(),
            optional_block(given.predecessor, "predecessor")?,
            slice(given.validators, given.validators_len, "validators")?,
            slice(given.voters, given.voters_len, "voters")?,
            block_hashes(given.datasets, given.datasets_len, "datasets")?,
        )
    };
    if given.tiers & !ALL_TIERS != 0 {
        let tiers = given.tiers;
        return Err(Failure::argument(format!("tiers {tiers:#x} has bits that are no blyan_tier")));
    }
    let has = |tier: &Tier| given.tiers & (1 << tier_number(*tier) as u32) != 0;
    let keys = |keys: &[blyan_public_key]| keys.iter().map(blyan_public_key::key).collect::<Vec<PublicKey>>();
    let all = Policy::new(model, keys(validators));
    Ok(Policy {
        predecessor,
        required: if given.required == 0 { all.required } else { given.required },
        threshold_ppm: given.threshold_ppm,
        tolerance_ppm: given.tolerance_ppm,
        datasets: datasets.into_iter().collect(),
        voters: keys(voters).into_iter().collect(),
        quorum: given.quorum,
        approval_ppm: given.approval_ppm,
        window: given.window,
        tiers: Tier::ALL.into_iter().filter(has).collect(),
        ..all
    })
}

/// Appends a policy, and gives its block.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn blyan_policy_append(
    chain: *const blyan_chain,
    policy: *const blyan_policy,
    block: *mut blyan_hash,
) -> blyan_status {
    edge(|| {
        // SAFETY: the caller's pointers, as the header asks.
        unsafe {
            let policy = policy_of(policy)?;
            append(chain, block, |chain| policy.append(chain))
        }
    })
}

/// The policy in a block, all of it checked again, as its canonical JSON.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn blyan_policy_json(
    chain: *const blyan_chain,
    policy: *const blyan_hash,
    json: *mut *mut blyan_text,
) -> blyan_status {
    edge(|| {
        // SAFETY: the caller's pointers, as the header asks.
        let (text, chain, policy) =
            unsafe { (new_handle(json, "json")?, read(chain, "chain")?, read(policy, "policy")?) };
        text.set(self::json(&Policy::of(&chain.chain, &policy.block())?)?);
        Ok(())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_tier_has_a_number_and_a_bit_and_others_are_refused() {
        let mut bits = 0;
        for tier in Tier::ALL {
            let number = tier_number(tier) as i32;
            assert_eq!(tier_of(number).unwrap(), tier);
            bits |= 1 << number;
        }
        assert_eq!(bits, ALL_TIERS);
        assert!(tier_of(3).is_err() && tier_of(-1).is_err());
    }
}
