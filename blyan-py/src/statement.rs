//! Owns statements in Python: signing what a key says, of any kind, and verifying what others said.

use blyan_core::evolve::{AnyStatement, EvolveError};
use pyo3::prelude::*;
use pyo3::types::PyString;

use crate::args::{BlockArg, Kind, expected};
use crate::buffer::bytes_of;
use crate::chain::{Block, Chain};
use crate::door::run;
use crate::evidence::{self, KeyArg};
use crate::history::appended;
use crate::values;

/// Says something: signs the body of a statement. Appends nothing.
///
/// `body` is a dict: of a kind of this library ("claim", "candidate", "attestation", "accusation", "audit",
/// "vote", "round", "closing", "reveal", "usage_record") the fields of its body in docs/format.md, in any
/// order; of an application's kind (a number from 4096 up) whatever it agreed on, in the order of the dict.
/// Numbers are integers of 64 bits. Raises `EvidenceError` for what cannot be said.
///
/// >>> from blyan import evolve
/// >>> said = evolve.sign_statement(bytes(32), 5000, {"text": "so it is"})
/// >>> said.key == evolve.public_key(bytes(32)), evolve.read_statement(5000, said.payload) == said
/// (True, True)
#[pyfunction]
pub(crate) fn sign_statement<'py>(
    py: Python<'py>,
    key: KeyArg,
    kind: Kind,
    body: &Bound<'py, PyAny>,
) -> PyResult<Bound<'py, PyAny>> {
    let body = values::to_json(body)?;
    let said =
        run(py, move || AnyStatement::sign(&key.0, kind.0, body.as_bytes()).map_err(EvolveError::from))?;
    evidence::make(py, "Statement", &said)
}

/// Reads the payload of a statement and verifies its signature, without what it names. Raises
/// `EvidenceError` if it is not valid.
#[pyfunction]
pub(crate) fn read_statement<'py>(
    py: Python<'py>,
    kind: Kind,
    payload: &Bound<'py, PyAny>,
) -> PyResult<Bound<'py, PyAny>> {
    let payload = match payload.cast::<PyString>() {
        Ok(text) => text.extract::<String>()?.into_bytes(),
        Err(_) => bytes_of(payload)?,
    };
    let said = run(py, move || AnyStatement::from_json(kind.0, &payload).map_err(EvolveError::from))?;
    evidence::make(py, "Statement", &said)
}

/// The statement in a block. Of a kind of this library all of it is checked again, against the blocks that
/// it names too; of an application's kind the signature is.
#[pyfunction]
pub(crate) fn statement_of<'py>(
    py: Python<'py>,
    chain: &Bound<'py, Chain>,
    block: BlockArg,
) -> PyResult<Bound<'py, PyAny>> {
    let chain = chain.get().handle.get(py)?;
    let said = run(py, move || AnyStatement::of(&chain, &block.0))?;
    evidence::make(py, "Statement", &said)
}

/// Appends a statement and returns its block; not of an application's kind, whose block is a `Draft` of the
/// application's.
#[pyfunction]
pub(crate) fn append_statement(
    py: Python<'_>,
    chain: &Bound<'_, Chain>,
    statement: &Bound<'_, PyAny>,
) -> PyResult<Block> {
    let attribute =
        |name: &str| statement.getattr(name).map_err(|error| expected("a Statement", statement, error));
    let kind: Kind = attribute("kind")?.extract()?;
    let payload: String = attribute("payload")?.extract()?;
    appended(py, chain, move |chain| {
        let said = AnyStatement::from_json(kind.0, payload.as_bytes())?;
        said.append(chain)
    })
}
