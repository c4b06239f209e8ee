//! Owns rewards: how a pool is divided among the keys whose contributions were used.

#![expect(unsafe_code, reason = "exported symbols and pointers of the caller")]

use blyan_core::evolve::{self, Ledger, Share};

use crate::chain::blyan_chain;
use crate::edge::{check_room, describe, free, new_handle, read};
use crate::error::{blyan_status, edge};
use crate::evolve::json;
use crate::evolve::key::blyan_public_key;
use crate::hash::{at, blyan_hash};
use crate::text::blyan_text;

/// What rewards are computed from: what was adopted under a policy, and what was used.
pub struct blyan_ledger(Ledger);

/// Reads the ledger of a policy. A function of the set of blocks.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn blyan_ledger_open(
    chain: *const blyan_chain,
    policy: *const blyan_hash,
    ledger: *mut *mut blyan_ledger,
) -> blyan_status {
    edge(|| {
        // SAFETY: the caller's pointers, as the header asks.
        let (ledger, chain, policy) =
            unsafe { (new_handle(ledger, "ledger")?, read(chain, "chain")?, read(policy, "policy")?) };
        ledger.set(blyan_ledger(Ledger::of(&chain.chain, &policy.block())?));
        Ok(())
    })
}

/// Periods so far: one more than the highest that a round has; 0 for NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn blyan_ledger_periods(ledger: *const blyan_ledger) -> u64 {
    // SAFETY: NULL or a handle.
    unsafe { ledger.as_ref() }.map_or(0, |ledger| ledger.0.periods)
}

/// What keys earned of a pool, by key.
pub struct blyan_shares(Vec<Share>);

/// What one key earned.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct blyan_share {
    /// The key.
    pub author: blyan_public_key,
    /// Its part of the pool.
    pub units: u64,
    /// Sum of the weights of its contributions: the lower 64 bits.
    pub weight_low: u64,
    /// The upper 64 bits.
    pub weight_high: u64,
}

/// Divides a pool of whole units among the keys whose contributions were used in a period. Those without
/// weight are not listed; the sum is the pool at most. docs/rewards.md has the formula.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn blyan_ledger_rewards(
    ledger: *const blyan_ledger,
    period: u64,
    pool: u64,
    shares: *mut *mut blyan_shares,
) -> blyan_status {
    edge(|| {
        // SAFETY: the caller's pointers, as the header asks.
        let (shares, ledger) = unsafe { (new_handle(shares, "shares")?, read(ledger, "ledger")?) };
        shares.set(blyan_shares(ledger.0.rewards(period, pool)));
        Ok(())
    })
}

/// Number of shares; 0 for NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn blyan_shares_len(shares: *const blyan_shares) -> usize {
    // SAFETY: NULL or a handle.
    unsafe { shares.as_ref() }.map_or(0, |shares| shares.0.len())
}

/// One of the shares; `size` is `sizeof *share`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn blyan_shares_get(
    shares: *const blyan_shares,
    index: usize,
    share: *mut blyan_share,
    size: usize,
) -> blyan_status {
    edge(|| {
        // SAFETY: the caller's pointer, as the header asks.
        let shares = unsafe { read(shares, "shares") }?;
        // Also where nobody earned anything.
        check_room(share, size, "share")?;
        let found = at(&shares.0, index)?;
        let description = blyan_share {
            author: found.author.into(),
            units: found.units,
            weight_low: found.weight as u64,
            weight_high: (found.weight >> 64) as u64,
        };
        // SAFETY: as above.
        unsafe { describe(share, size, "share", description) }
    })
}

/// Frees a list of shares; nothing for NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn blyan_shares_free(shares: *mut blyan_shares) {
    // SAFETY: NULL or a handle that was not freed.
    unsafe { free(shares) }
}

/// What each contribution counts in a period, by the period it was adopted in and its claim, as a JSON array:
/// author, claim, gain, credit and tokens.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn blyan_ledger_credits_json(
    ledger: *const blyan_ledger,
    period: u64,
    json: *mut *mut blyan_text,
) -> blyan_status {
    edge(|| {
        // SAFETY: the caller's pointers, as the header asks.
        let (text, ledger) = unsafe { (new_handle(json, "json")?, read(ledger, "ledger")?) };
        let Ledger { adoptions, uses, .. } = &ledger.0;
        text.set(self::json(&evolve::credits(period, adoptions, uses))?);
        Ok(())
    })
}

/// Frees a ledger; nothing for NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn blyan_ledger_free(ledger: *mut blyan_ledger) {
    // SAFETY: NULL or a handle that was not freed.
    unsafe { free(ledger) }
}
