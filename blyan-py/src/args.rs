//! Owns the way of arguments into the core: what Python users write for hashes, lanes, kinds, dtypes,
//! numbers, prompts and parents.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use blyan_core::dtype::DType;
use blyan_core::format::{BlockKind, ChainId, Parent, ParentRole};
use blyan_core::hash::BlockHash;
use blyan_core::import;
use blyan_core::manager::{GenerateOptions, Prompt};
use pyo3::exceptions::{PyAttributeError, PyOverflowError, PyTypeError};
use pyo3::prelude::*;
use pyo3::types::{PyByteArray, PyBytes, PyDict, PyList, PyMemoryView, PyString};

use crate::chain::Block;
use crate::door::CancelToken;
use crate::failure::Failure;

fn refuse(ob: Borrowed<'_, '_, PyAny>, message: String) -> PyErr {
    Failure::Argument(message).into_py(ob.py())
}

/// Shows a value in an error, cut.
fn shown(ob: Borrowed<'_, '_, PyAny>) -> String {
    let text = ob.repr().map_or_else(|_| "a value".to_owned(), |text| text.to_string_lossy().into_owned());
    text.chars().take(80).collect()
}

/// A `TypeError` in place of an `AttributeError`: what was given is not of the type that has the attribute.
pub(crate) fn expected(what: &str, given: &Bound<'_, PyAny>, error: PyErr) -> PyErr {
    if !error.is_instance_of::<PyAttributeError>(given.py()) {
        return error;
    }
    PyTypeError::new_err(format!("expected {what}, not {}", type_name(given.as_borrowed())))
}

fn type_name(ob: Borrowed<'_, '_, PyAny>) -> String {
    ob.get_type().name().map_or_else(|_| "?".to_owned(), |name| name.to_string_lossy().into_owned())
}

/// A block, by its hash as text or bytes, or the block itself.
#[derive(Debug, Clone, Copy)]
pub(crate) struct BlockArg(pub(crate) BlockHash);

impl FromPyObject<'_, '_> for BlockArg {
    type Error = PyErr;

    fn extract(ob: Borrowed<'_, '_, PyAny>) -> PyResult<Self> {
        if let Ok(block) = ob.cast::<Block>() {
            return Ok(Self(block.get().block.hash()));
        }
        if let Ok(text) = ob.cast::<PyString>() {
            // Text that has no UTF-8 is no hash either.
            let parsed = text.to_string_lossy().parse::<BlockHash>();
            return parsed.map(Self).map_err(|error| Failure::from(error).into_py(ob.py()));
        }
        if let Ok(bytes) = ob.cast::<PyBytes>() {
            let bytes = <[u8; 32]>::try_from(bytes.as_bytes());
            let wrong = |_| refuse(ob, "a block hash has 32 bytes".to_owned());
            return bytes.map(|bytes| Self(BlockHash::from_bytes(bytes))).map_err(wrong);
        }
        Err(PyTypeError::new_err(format!(
            "expected a block, or its hash as str or bytes, not {}",
            type_name(ob)
        )))
    }
}

/// A model: a block, the hash of one, or a name as `find_model` knows it.
#[derive(Debug, Clone)]
pub(crate) enum ModelArg {
    Block(BlockHash),
    Name(String),
}

impl FromPyObject<'_, '_> for ModelArg {
    type Error = PyErr;

    fn extract(ob: Borrowed<'_, '_, PyAny>) -> PyResult<Self> {
        if let Ok(text) = ob.cast::<PyString>() {
            let text = text.to_string_lossy();
            return Ok(text.parse().map_or_else(|_| Self::Name(text.into_owned()), Self::Block));
        }
        Ok(Self::Block(ob.extract::<BlockArg>()?.0))
    }
}

/// A number from 0 up. One that is negative or too large is a `ValueError`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Count<T = usize>(pub(crate) T);

impl<'py, T: TryFrom<u64>> FromPyObject<'_, 'py> for Count<T> {
    type Error = PyErr;

    fn extract(ob: Borrowed<'_, 'py, PyAny>) -> PyResult<Self> {
        let refused = || refuse(ob, format!("expected a whole number from 0 up, got {}", shown(ob)));
        match ob.extract::<u64>() {
            Ok(number) => T::try_from(number).map(Self).map_err(|_| refused()),
            Err(error) if error.is_instance_of::<PyOverflowError>(ob.py()) => Err(refused()),
            Err(error) => Err(error),
        }
    }
}

/// Token ids.
#[derive(Debug, Clone)]
pub(crate) struct Tokens(pub(crate) Vec<u32>);

impl<'py> FromPyObject<'_, 'py> for Tokens {
    type Error = PyErr;

    fn extract(ob: Borrowed<'_, 'py, PyAny>) -> PyResult<Self> {
        // Bytes and texts are sequences too, but surely meant otherwise.
        if ob.is_instance_of::<PyBytes>()
            || ob.is_instance_of::<PyByteArray>()
            || ob.is_instance_of::<PyString>()
            || is_view_of_bytes(ob)?
        {
            return Err(PyTypeError::new_err(format!("expected token ids, not {}", type_name(ob))));
        }
        match ob.extract::<Vec<u32>>() {
            Ok(tokens) => Ok(Self(tokens)),
            Err(error) if error.is_instance_of::<PyOverflowError>(ob.py()) => {
                Err(refuse(ob, "a token id is a number from 0 to 4294967295".to_owned()))
            }
            Err(error) => Err(error),
        }
    }
}

/// Whether this is a `memoryview` of bytes; one of wider numbers is token ids.
fn is_view_of_bytes(ob: Borrowed<'_, '_, PyAny>) -> PyResult<bool> {
    Ok(ob.is_instance_of::<PyMemoryView>() && ob.getattr("itemsize")?.extract::<usize>()? == 1)
}

/// What to continue: a text or token ids.
#[derive(Debug, Clone)]
pub(crate) struct PromptArg(pub(crate) Prompt);

impl<'py> FromPyObject<'_, 'py> for PromptArg {
    type Error = PyErr;

    fn extract(ob: Borrowed<'_, 'py, PyAny>) -> PyResult<Self> {
        if ob.is_instance_of::<PyString>() {
            return Ok(Self(Prompt::Text(ob.extract()?)));
        }
        let tokens = ob.extract::<Tokens>().map_err(|error| {
            // Of a list the error is about what is in it.
            if error.is_instance_of::<PyTypeError>(ob.py()) && !ob.is_instance_of::<PyList>() {
                let name = type_name(ob);
                PyTypeError::new_err(format!("a prompt is a str or a list of token ids, not {name}"))
            } else {
                error
            }
        })?;
        Ok(Self(Prompt::Tokens(tokens.0)))
    }
}

/// A lane: `"A"` or `"meta"`, `"B"` or `"parameter"`, `"D"` or `"dataset"`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Lane(pub(crate) ChainId);

impl<'py> FromPyObject<'_, 'py> for Lane {
    type Error = PyErr;

    fn extract(ob: Borrowed<'_, 'py, PyAny>) -> PyResult<Self> {
        let text: String = ob.extract()?;
        Ok(Self(match text.as_str() {
            "A" | "meta" => ChainId::Meta,
            "B" | "parameter" => ChainId::Parameter,
            "D" | "dataset" => ChainId::Dataset,
            _ => return Err(refuse(ob, format!("there is no lane {}: A, B or D", shown(ob)))),
        }))
    }
}

/// A kind of block, by its name or number.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Kind(pub(crate) BlockKind);

impl<'py> FromPyObject<'_, 'py> for Kind {
    type Error = PyErr;

    fn extract(ob: Borrowed<'_, 'py, PyAny>) -> PyResult<Self> {
        if ob.is_instance_of::<PyString>() {
            let known = BlockKind::from_name(&ob.extract::<String>()?);
            let unknown = || refuse(ob, format!("there is no kind of block {}", shown(ob)));
            return known.map(Self).ok_or_else(unknown);
        }
        Ok(Self(BlockKind(ob.extract::<Count<u16>>()?.0)))
    }
}

/// A dtype to convert to: `f32`, `bf16`, `f16`, `fp8`, `int8`, `int4`, or a tensor's own name such as `BF16`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct DTypeArg(pub(crate) DType);

impl<'py> FromPyObject<'_, 'py> for DTypeArg {
    type Error = PyErr;

    fn extract(ob: Borrowed<'_, 'py, PyAny>) -> PyResult<Self> {
        let name: String = ob.extract()?;
        let known = import::dtype_of_option(&name).or_else(|error| name.parse().map_err(|_| error));
        known.map(Self).map_err(|error| refuse(ob, error.to_string()))
    }
}

/// A parent: a block (a dependency), or a block and its role.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ParentArg(pub(crate) Parent);

impl<'py> FromPyObject<'_, 'py> for ParentArg {
    type Error = PyErr;

    fn extract(ob: Borrowed<'_, 'py, PyAny>) -> PyResult<Self> {
        // A pair, or a `blyan.Parent`, which is one.
        let Ok((block, role)) = ob.extract::<(BlockArg, String)>() else {
            return Ok(Self(Parent::dependency(ob.extract::<BlockArg>()?.0)));
        };
        let role = match role.as_str() {
            "dependency" => ParentRole::Dependency,
            "predecessor" => ParentRole::Predecessor,
            "base" => ParentRole::Base,
            "evidence" => ParentRole::Evidence,
            _ => {
                let roles = "dependency, predecessor, base or evidence";
                return Err(refuse(ob, format!("there is no role {role:?}: {roles}")));
            }
        };
        Ok(Self(Parent { hash: block.0, role }))
    }
}

/// Stop strings: one, or several.
fn stop_strings(value: &Bound<'_, PyAny>) -> PyResult<Vec<String>> {
    if value.is_none() {
        return Ok(Vec::new());
    }
    if value.is_instance_of::<PyString>() { Ok(vec![value.extract()?]) } else { value.extract() }
}

/// What a generation is asked for, and the flag of a token that can end it.
pub(crate) struct Generate {
    pub(crate) options: GenerateOptions,
    pub(crate) cancel: Option<Arc<AtomicBool>>,
}

/// As f32. What is too small for one does not become 0, which means something else.
fn narrowed(value: f64) -> f32 {
    let narrow = value as f32;
    if narrow == 0.0 && value != 0.0 { f32::from_bits(1).copysign(narrow) } else { narrow }
}

/// The options of a generation, by their names. `function` is named in errors.
pub(crate) fn generate(
    max_tokens: Option<Count>,
    given: Option<&Bound<'_, PyDict>>,
    function: &str,
) -> PyResult<Generate> {
    let mut options =
        GenerateOptions { max_tokens: max_tokens.map(|count| count.0), ..GenerateOptions::default() };
    let mut cancel = None;
    for (name, value) in given.into_iter().flat_map(PyDictMethods::iter) {
        let name: String = name.extract()?;
        let sampling = &mut options.sampling;
        let set = match name.as_str() {
            "temperature" => value.extract().map(|value: f64| sampling.temperature = narrowed(value)),
            "top_k" => value.extract().map(|k: Option<Count>| sampling.top_k = k.map(|k| k.0)),
            "top_p" => value.extract().map(|p: Option<f64>| sampling.top_p = p.map(|p| p as f32)),
            "min_p" => value.extract().map(|p: Option<f64>| sampling.min_p = p.map(|p| p as f32)),
            "repetition_penalty" => {
                value.extract().map(|p: Option<f64>| sampling.repetition_penalty = p.map(|p| p as f32))
            }
            "seed" => value.extract().map(|seed: Count<u64>| sampling.seed = seed.0),
            "stop" => stop_strings(&value).map(|stop| options.stop = stop),
            "ignore_eos" => value.extract().map(|ignore: bool| options.ignore_eos = ignore),
            "logprobs" => {
                value.extract().map(|count: Option<Count>| options.logprobs = count.map(|count| count.0))
            }
            "cancel" => value.extract().map_err(PyErr::from).map(|token: Option<Py<CancelToken>>| {
                cancel = token.map(|token| token.get().flag());
            }),
            _ => return Err(unexpected(function, &name)),
        };
        set.map_err(|error| about_argument(value.py(), &name, error))?;
    }
    Ok(Generate { options, cancel })
}

/// The `TypeError` of a keyword that a function does not have, as Python's own is.
pub(crate) fn unexpected(function: &str, name: &str) -> PyErr {
    PyTypeError::new_err(format!("{function}() got an unexpected keyword argument '{name}'"))
}

/// A `TypeError` that names the argument, as Python's own do.
pub(crate) fn about_argument(py: Python<'_>, name: &str, error: PyErr) -> PyErr {
    if error.get_type(py).is(py.get_type::<PyTypeError>()) {
        PyTypeError::new_err(format!("argument '{name}': {}", error.value(py)))
    } else {
        error
    }
}
