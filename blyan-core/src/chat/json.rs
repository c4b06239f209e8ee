//! Owns values as text: Python's `json.dumps` and its numbers, which templates were written against.

use std::fmt::Write;

use minijinja::value::{Kwargs, ValueKind};
use minijinja::{Error, ErrorKind, Output, State, Value};

/// Deepest nesting that is written; `serde_json` reads no deeper either.
const MAX_DEPTH: usize = 128;

struct Style<'a> {
    state: &'a State<'a, 'a>,
    ensure_ascii: bool,
    sort_keys: bool,
    indent: Option<String>,
    item_separator: String,
    key_separator: String,
}

/// `value | tojson(ensure_ascii=False, indent=None, separators=None, sort_keys=False)`
pub(super) fn tojson<'a>(state: &'a State<'a, 'a>, value: &Value, kwargs: Kwargs) -> Result<Value, Error> {
    let flag = |name| Ok::<_, Error>(kwargs.get::<Option<Value>>(name)?.is_some_and(|flag| flag.is_true()));
    let indent = kwargs.get::<Option<Value>>("indent")?.filter(|indent| !indent.is_none());
    let indent = indent.map(|indent| match indent.as_str() {
        Some(text) => text.to_owned(),
        None => " ".repeat(usize::try_from(indent.as_i64().unwrap_or(0).clamp(0, 64)).unwrap_or(0)),
    });
    let mut style = Style {
        state,
        ensure_ascii: flag("ensure_ascii")?,
        sort_keys: flag("sort_keys")?,
        item_separator: if indent.is_some() { "," } else { ", " }.to_owned(),
        key_separator: ": ".to_owned(),
        indent,
    };
    if let Some(separators) = kwargs.get::<Option<Value>>("separators")?.filter(|given| !given.is_none()) {
        let separator = |index| {
            let separator = separators.get_item_by_index(index)?;
            let text = separator.as_str().map(str::to_owned);
            text.ok_or_else(|| Error::new(ErrorKind::InvalidOperation, "separators are texts"))
        };
        style.item_separator = separator(0)?;
        style.key_separator = separator(1)?;
    }
    kwargs.assert_all_used()?;
    let mut out = String::new();
    write_value(&mut out, value, &style, 0)?;
    Ok(Value::from(out))
}

fn refuse(what: &ValueKind) -> Error {
    Error::new(ErrorKind::BadSerialization, format!("{what} cannot be written as JSON"))
}

fn new_line(out: &mut String, style: &Style<'_>, depth: usize) {
    if let Some(indent) = &style.indent {
        out.push('\n');
        for _ in 0..depth {
            out.push_str(indent);
        }
    }
}

fn write_value(out: &mut String, value: &Value, style: &Style<'_>, depth: usize) -> Result<(), Error> {
    if depth > MAX_DEPTH {
        return Err(Error::new(ErrorKind::BadSerialization, "the value is nested too deeply"));
    }
    // As it grows: a small value that holds another many times is endless when written out.
    let indent_len = style.indent.as_ref().map_or(0, |i| i.len() * depth);
    let separators_len = style.item_separator.len() + style.key_separator.len();
    let text_len = value.as_str().map_or(0, str::len) + indent_len + separators_len;
    style.state.consume_fuel(1 + text_len as u64 / 64)?;
    match value.kind() {
        ValueKind::None => out.push_str("null"),
        ValueKind::Bool => out.push_str(if value.is_true() { "true" } else { "false" }),
        ValueKind::Number => write_number(out, value),
        ValueKind::String => write_text(out, value.as_str().unwrap_or_default(), style.ensure_ascii),
        ValueKind::Seq | ValueKind::Iterable => {
            out.push('[');
            let mut empty = true;
            for item in value.try_iter()? {
                if !std::mem::take(&mut empty) {
                    out.push_str(&style.item_separator);
                }
                new_line(out, style, depth + 1);
                write_value(out, &item, style, depth + 1)?;
            }
            if !empty {
                new_line(out, style, depth);
            }
            out.push(']');
        }
        ValueKind::Map => {
            let mut entries = Vec::new();
            for key in value.try_iter()? {
                let item = value.get_item(&key)?;
                style.state.consume_fuel(key.as_str().map_or(0, str::len) as u64 / 64)?;
                entries.push((key_text(&key)?, item));
            }
            if style.sort_keys {
                entries.sort_by(|a, b| a.0.cmp(&b.0));
            }
            out.push('{');
            let empty = entries.is_empty();
            for (place, (key, item)) in entries.iter().enumerate() {
                if place > 0 {
                    out.push_str(&style.item_separator);
                }
                new_line(out, style, depth + 1);
                write_text(out, key, style.ensure_ascii);
                out.push_str(&style.key_separator);
                write_value(out, item, style, depth + 1)?;
            }
            if !empty {
                new_line(out, style, depth);
            }
            out.push('}');
        }
        kind => return Err(refuse(&kind)),
    }
    Ok(())
}

fn key_text(key: &Value) -> Result<String, Error> {
    match key.kind() {
        ValueKind::String => Ok(key.as_str().unwrap_or_default().to_owned()),
        ValueKind::None => Ok("null".to_owned()),
        ValueKind::Bool => Ok(if key.is_true() { "true" } else { "false" }.to_owned()),
        ValueKind::Number => {
            let mut text = String::new();
            write_number(&mut text, key);
            Ok(text)
        }
        kind => Err(refuse(&kind)),
    }
}

/// Prints a value in a template as Python would.
pub(super) fn print(out: &mut Output<'_>, state: &State<'_, '_>, value: &Value) -> Result<(), Error> {
    if value.kind() == ValueKind::Number {
        out.write_str(&number_text(value))?;
    } else {
        pay_for(state, value)?;
        write!(out, "{value}")?;
    }
    Ok(())
}

/// `value | string`
pub(super) fn string(state: &State<'_, '_>, value: &Value) -> Result<Value, Error> {
    pay_for(state, value)?;
    Ok(match value.kind() {
        ValueKind::String => value.clone(),
        ValueKind::Number => Value::from(number_text(value)),
        _ => Value::from(value.to_string()),
    })
}

/// Python's `str` of a number, which differs from its JSON in what is no finite number.
fn number_text(value: &Value) -> String {
    let mut text = String::new();
    write_number(&mut text, value);
    match text.as_str() {
        "NaN" => "nan".to_owned(),
        "Infinity" => "inf".to_owned(),
        "-Infinity" => "-inf".to_owned(),
        _ => text,
    }
}

/// Charges for everything in a list or map before the engine writes it out, which it would only
/// charge for when done: too late for a small value that holds another many times. Returns the charge.
pub(super) fn pay_for(state: &State<'_, '_>, value: &Value) -> Result<u64, Error> {
    let mut paid = 0;
    match value.kind() {
        ValueKind::Map => {
            for key in value.try_iter()? {
                state.consume_fuel(2)?;
                paid += 2 + pay_for(state, &key)? + pay_for(state, &value.get_item(&key)?)?;
            }
        }
        // The engine writes out what is in an iterable if it knows how much that is.
        kind if kind == ValueKind::Seq || (kind == ValueKind::Iterable && value.len().is_some()) => {
            for item in value.try_iter()? {
                state.consume_fuel(1)?;
                paid += 1 + pay_for(state, &item)?;
            }
        }
        _ => {
            paid = value.as_str().map_or(0, str::len) as u64 / 64;
            state.consume_fuel(paid)?;
        }
    }
    Ok(paid)
}

/// Integers in full; floats as Python's `repr`: the shortest digits that read back equal, with an
/// exponent below 1e-4 and from 1e16.
fn write_number(out: &mut String, value: &Value) {
    let float = if value.is_integer() { None } else { f64::try_from(value.clone()).ok() };
    let Some(float) = float else {
        out.push_str(&value.to_string());
        return;
    };
    if float.is_nan() {
        out.push_str("NaN");
    } else if float.is_infinite() {
        out.push_str(if float > 0.0 { "Infinity" } else { "-Infinity" });
    } else {
        // Rust's debug form has the same thresholds, but writes 1e16 where Python writes 1e+16.
        let text = format!("{float:?}");
        match text.split_once('e') {
            None => out.push_str(&text),
            Some((mantissa, exponent)) => {
                let (sign, digits) = match exponent.strip_prefix('-') {
                    Some(digits) => ('-', digits),
                    None => ('+', exponent),
                };
                out.push_str(mantissa.strip_suffix(".0").unwrap_or(mantissa));
                let _ = write!(out, "e{sign}{digits:0>2}");
            }
        }
    }
}

fn write_text(out: &mut String, text: &str, ensure_ascii: bool) {
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            c if c < ' ' || (ensure_ascii && c > '~') => {
                for unit in c.encode_utf16(&mut [0; 2]) {
                    let _ = write!(out, "\\u{unit:04x}");
                }
            }
            c => out.push(c),
        }
    }
    out.push('"');
}
