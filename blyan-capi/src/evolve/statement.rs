//! Owns statements of any kind: signing what a program says, and verifying what others said.

#![expect(unsafe_code, reason = "exported symbols and pointers of the caller")]

use std::ffi::c_char;

use blyan_core::BlockKind;
use blyan_core::evolve::{AnyStatement, EvolveError};

use crate::chain::blyan_chain;
use crate::edge::{bytes, describe, free, new_handle, read};
use crate::error::{blyan_status, edge};
use crate::evolve::append;
use crate::evolve::key::{blyan_key, blyan_public_key};
use crate::hash::blyan_hash;
use crate::text::blyan_text;

/// What one key says, signed. The signature of whatever a handle has is valid.
pub struct blyan_statement(AnyStatement);

/// Says something. `body` is JSON: of a kind of this library (claim, candidate, attestation, accusation, audit,
/// vote, round, closing, reveal, `usage_record`) the fields of its body in docs/format.md, in any order; of an
/// application's kind (4096 and up) whatever it agreed on, in the order in which it stands there. Numbers are
/// integers of 64 bits. Appends nothing.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn blyan_statement_sign(
    key: *const blyan_key,
    kind: u16,
    body: *const c_char,
    body_len: usize,
    statement: *mut *mut blyan_statement,
) -> blyan_status {
    edge(|| {
        // SAFETY: the caller's pointers, as the header asks.
        let (statement, key, body) = unsafe {
            (new_handle(statement, "statement")?, read(key, "key")?, bytes(body, body_len, "body")?)
        };
        let said = AnyStatement::sign(&key.0, BlockKind(kind), body).map_err(EvolveError::from)?;
        statement.set(blyan_statement(said));
        Ok(())
    })
}

/// Reads the payload of a statement of a kind and verifies its signature, without what it names;
/// `BLYAN_STATUS_EVIDENCE` if it is not valid.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn blyan_statement_from_json(
    kind: u16,
    json: *const c_char,
    json_len: usize,
    statement: *mut *mut blyan_statement,
) -> blyan_status {
    edge(|| {
        // SAFETY: the caller's pointers, as the header asks.
        let (statement, json) =
            unsafe { (new_handle(statement, "statement")?, bytes(json, json_len, "json")?) };
        let said = AnyStatement::from_json(BlockKind(kind), json).map_err(EvolveError::from)?;
        statement.set(blyan_statement(said));
        Ok(())
    })
}

/// The statement in a block. Of a kind of this library all of it is checked again, against the blocks that it
/// names too; of an application's kind the signature is.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn blyan_statement_open(
    chain: *const blyan_chain,
    block: *const blyan_hash,
    statement: *mut *mut blyan_statement,
) -> blyan_status {
    edge(|| {
        // SAFETY: the caller's pointers, as the header asks.
        let (statement, chain, block) =
            unsafe { (new_handle(statement, "statement")?, read(chain, "chain")?, read(block, "block")?) };
        statement.set(blyan_statement(AnyStatement::of(&chain.chain, &block.block())?));
        Ok(())
    })
}

/// Who says a statement.
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct blyan_statement_info {
    /// The key.
    pub key: blyan_public_key,
    /// Its ed25519 signature of what docs/format.md says.
    pub signature: [u8; 64],
    /// Kind of the block.
    pub kind: u32,
    /// 0.
    pub reserved: u32,
}

/// Who says a statement; `size` is `sizeof *info`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn blyan_statement_describe(
    statement: *const blyan_statement,
    info: *mut blyan_statement_info,
    size: usize,
) -> blyan_status {
    edge(|| {
        // SAFETY: the caller's pointer, as the header asks.
        let statement = &unsafe { read(statement, "statement") }?.0;
        let description = blyan_statement_info {
            key: statement.key().into(),
            signature: *statement.signature(),
            kind: statement.kind().0.into(),
            reserved: 0,
        };
        // SAFETY: as above.
        unsafe { describe(info, size, "info", description) }
    })
}

/// The payload of a statement's block, canonical JSON: its body, the key and the signature.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn blyan_statement_to_json(
    statement: *const blyan_statement,
    json: *mut *mut blyan_text,
) -> blyan_status {
    edge(|| {
        // SAFETY: the caller's pointers, as the header asks.
        let (json, statement) = unsafe { (new_handle(json, "json")?, read(statement, "statement")?) };
        json.set(blyan_text::new(statement.0.to_json()));
        Ok(())
    })
}

/// Appends a statement's block, and gives it; `BLYAN_STATUS_EVIDENCE` for an application's kind, whose block
/// only the application can draft.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn blyan_statement_append(
    statement: *const blyan_statement,
    chain: *const blyan_chain,
    block: *mut blyan_hash,
) -> blyan_status {
    edge(|| {
        // SAFETY: the caller's pointers, as the header asks.
        unsafe {
            let statement = read(statement, "statement")?;
            append(chain, block, |chain| statement.0.append(chain))
        }
    })
}

/// Frees a statement; nothing for NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn blyan_statement_free(statement: *mut blyan_statement) {
    // SAFETY: NULL or a handle that was not freed.
    unsafe { free(statement) }
}
