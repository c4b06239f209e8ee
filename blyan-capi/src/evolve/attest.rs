//! Owns attesting what was measured, and auditing what others attested.

#![expect(unsafe_code, reason = "exported symbols and pointers of the caller")]

use blyan_core::evolve::{self, AuditReport};

use crate::chain::blyan_chain;
use crate::edge::{check_room, describe, free, new_handle, read, read_optional};
use crate::error::{blyan_status, edge};
use crate::evolve::evaluate::{Evaluating, blyan_evaluate_options};
use crate::evolve::key::{blyan_key, blyan_public_key};
use crate::evolve::{append, json};
use crate::hash::{at, blyan_hash, blyan_hashes, optional_block_hashes};
use crate::text::blyan_text;

/// Measures candidates of a reveal as a validator, and appends what was found: all of `candidates` in one
/// model, or, if that is NULL, each that is no copy and then those that are good enough together. Gives the
/// attestations; those that were appended before a failure stay. `options` may be NULL.
///
/// It is the careful validator of docs/evolution.md: `BLYAN_STATUS_STEP` in a round that is void, on a base
/// that is not chosen beside it, with a split that another round has shown that does not follow it, and
/// where the key attested something else of the same candidates. What it attested alike is given again.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn blyan_attest(
    chain: *const blyan_chain,
    key: *const blyan_key,
    reveal: *const blyan_hash,
    candidates: *const blyan_hash,
    candidates_len: usize,
    options: *const blyan_evaluate_options,
    attestations: *mut *mut blyan_hashes,
) -> blyan_status {
    edge(|| {
        // SAFETY: the caller's pointers, as the header asks.
        let (attestations, chain, key, reveal, candidates, how) = unsafe {
            (
                new_handle(attestations, "attestations")?,
                read(chain, "chain")?,
                read(key, "key")?,
                read(reveal, "reveal")?,
                optional_block_hashes(candidates, candidates_len, "candidates")?,
                Evaluating::new(options)?,
            )
        };
        let (chain, reveal) = (chain.to_write()?, reveal.block());
        let appended = how.run(|options| match &candidates {
            Some(some) => evolve::attest(chain, &key.0, &reveal, some, options).map(|block| vec![block]),
            None => evolve::attest_all(chain, &key.0, &reveal, options),
        })?;
        attestations.set(blyan_hashes(appended));
        Ok(())
    })
}

/// What an audit found.
pub struct blyan_audit_report(AuditReport);

/// What an audit found, in numbers.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct blyan_audit_info {
    /// Attestations that were computed again.
    pub checked: u64,
    /// Number of those that do not recompute; `blyan_audit_report_lie` names them.
    pub lies_len: usize,
    /// Number of attestations of another version of the arithmetic, which this library cannot compute.
    pub other_numerics_len: usize,
    /// Number of attestations of candidates whose weights, or those of their base, were collected.
    pub collected_len: usize,
}

/// An attestation that does not recompute.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct blyan_lie {
    /// The attestation.
    pub attestation: blyan_hash,
    /// Who signed it.
    pub key: blyan_public_key,
    /// The accusation, if one was appended.
    pub accusation: blyan_hash,
    /// Not 0 if `accusation` is one.
    pub has_accusation: i32,
    /// 0.
    pub reserved: i32,
}

/// Computes every attestation under a policy again. With a key, appends an accusation for each that does not
/// recompute and is not the key's own; `key` may be NULL, and then nothing is. What cannot be computed here is counted
/// and passed over. `options` may be NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn blyan_audit(
    chain: *const blyan_chain,
    policy: *const blyan_hash,
    key: *const blyan_key,
    options: *const blyan_evaluate_options,
    report: *mut *mut blyan_audit_report,
) -> blyan_status {
    edge(|| {
        // SAFETY: the caller's pointers, as the header asks.
        let (report, chain, policy, key, how) = unsafe {
            (
                new_handle(report, "report")?,
                read(chain, "chain")?,
                read(policy, "policy")?,
                read_optional(key, "key")?,
                Evaluating::new(options)?,
            )
        };
        let chain = if key.is_some() { chain.to_write()? } else { &chain.chain };
        let key = key.map(|key| &key.0);
        let found = how.run(|options| evolve::audit(chain, &policy.block(), key, options))?;
        report.set(blyan_audit_report(found));
        Ok(())
    })
}

/// What an audit found, in numbers; `size` is `sizeof *info`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn blyan_audit_report_describe(
    report: *const blyan_audit_report,
    info: *mut blyan_audit_info,
    size: usize,
) -> blyan_status {
    edge(|| {
        // SAFETY: the caller's pointer, as the header asks.
        let report = &unsafe { read(report, "report") }?.0;
        let description = blyan_audit_info {
            checked: report.checked,
            lies_len: report.lies.len(),
            other_numerics_len: report.other_numerics.len(),
            collected_len: report.collected.len(),
        };
        // SAFETY: as above.
        unsafe { describe(info, size, "info", description) }
    })
}

/// One of the attestations that do not recompute; `size` is `sizeof *lie`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn blyan_audit_report_lie(
    report: *const blyan_audit_report,
    index: usize,
    lie: *mut blyan_lie,
    size: usize,
) -> blyan_status {
    edge(|| {
        // SAFETY: the caller's pointer, as the header asks.
        let report = unsafe { read(report, "report") }?;
        // Also where nobody lied.
        check_room(lie, size, "lie")?;
        let found = at(&report.0.lies, index)?;
        let description = blyan_lie {
            attestation: found.attestation.into(),
            key: found.key.into(),
            accusation: found.accusation.map_or(blyan_hash::ZERO, Into::into),
            has_accusation: found.accusation.is_some().into(),
            reserved: 0,
        };
        // SAFETY: as above.
        unsafe { describe(lie, size, "lie", description) }
    })
}

/// Appends an accusation of one of these attestations, under the policy of the audit, and gives its block.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn blyan_audit_report_accuse(
    report: *const blyan_audit_report,
    index: usize,
    chain: *const blyan_chain,
    policy: *const blyan_hash,
    key: *const blyan_key,
    accusation: *mut blyan_hash,
) -> blyan_status {
    edge(|| {
        // SAFETY: the caller's pointers, as the header asks.
        unsafe {
            let (report, policy, key) = (read(report, "report")?, read(policy, "policy")?, read(key, "key")?);
            let lie = at(&report.0.lies, index)?;
            append(chain, accusation, |chain| evolve::accuse(chain, &key.0, &policy.block(), lie))
        }
    })
}

/// All that an audit found as JSON: also what was attested and what is true, as the bits of losses.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn blyan_audit_report_json(
    report: *const blyan_audit_report,
    json: *mut *mut blyan_text,
) -> blyan_status {
    edge(|| {
        // SAFETY: the caller's pointers, as the header asks.
        let (text, report) = unsafe { (new_handle(json, "json")?, read(report, "report")?) };
        text.set(self::json(&report.0)?);
        Ok(())
    })
}

/// Frees a report; nothing for NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn blyan_audit_report_free(report: *mut blyan_audit_report) {
    // SAFETY: NULL or a handle that was not freed.
    unsafe { free(report) }
}
