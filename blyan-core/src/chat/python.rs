//! Owns what the engine lacks or does otherwise of the methods of Python's texts.

use minijinja::value::{Kwargs, from_args};
use minijinja::{Error, ErrorKind, State, Value};

/// Arguments in their places, those given by name too.
pub(super) fn places(given: &[Value], kwargs: &Kwargs, names: [&str; 2]) -> Result<Vec<Value>, Error> {
    let mut places = given.to_vec();
    for (place, name) in names.into_iter().enumerate() {
        if let Some(value) = kwargs.get::<Option<Value>>(name)? {
            if places.len() > place {
                return Err(Error::from(ErrorKind::TooManyArguments));
            }
            places.resize(place, Value::UNDEFINED);
            places.push(value);
        }
    }
    kwargs.assert_all_used()?;
    Ok(places)
}

/// A method's result, if it is one of these. What it reads is paid for, what it pads is paid for here.
pub(super) fn text_method(
    state: &State<'_, '_>,
    text: &str,
    method: &str,
    args: &[Value],
) -> Result<Option<Value>, Error> {
    Ok(Some(match method {
        "rsplit" => {
            let (separator, limit): (Option<&str>, Option<i64>) = from_args(args)?;
            rsplit(text, separator, limit)?
        }
        "index" => {
            let (part, start): (&str, Option<i64>) = from_args(args)?;
            let found = find(text, part, start);
            Value::from(found.ok_or_else(|| refuse("the text that index looks for is not there"))?)
        }
        "find" if args.len() == 2 => {
            let (part, start): (&str, i64) = from_args(args)?;
            find(text, part, Some(start)).map_or(Value::from(-1), Value::from)
        }
        "count" if args.len() == 2 => {
            let (part, start): (&str, i64) = from_args(args)?;
            Value::from(tail(text, start).map_or(0, |(_, tail)| tail.matches(part).count()))
        }
        "startswith" if args.len() == 2 => {
            let (part, start): (&str, i64) = from_args(args)?;
            Value::from(tail(text, start).is_some_and(|(_, tail)| tail.starts_with(part)))
        }
        "ljust" | "rjust" | "center" => {
            let (width, fill): (i64, Option<&str>) = from_args(args)?;
            let fill = fill.unwrap_or(" ");
            if fill.chars().count() != 1 {
                return Err(refuse("a text is padded with one character"));
            }
            let missing = missing(state, text, width, fill)?;
            let before = match method {
                "ljust" => 0,
                "rjust" => missing,
                // Python puts the odd one before the text if the width is odd.
                _ => missing / 2 + usize::from(missing % 2 == 1 && width % 2 == 1),
            };
            let (before, after) = (fill.repeat(before), fill.repeat(missing - before));
            Value::from([before.as_str(), text, after.as_str()].concat())
        }
        "zfill" => {
            let (width,): (i64,) = from_args(args)?;
            let zeros = "0".repeat(missing(state, text, width, "0")?);
            let digits = text.strip_prefix(['+', '-']).unwrap_or(text);
            let sign = text.strip_suffix(digits).unwrap_or_default();
            Value::from([sign, zeros.as_str(), digits].concat())
        }
        "swapcase" => {
            from_args::<()>(args)?;
            let mut swapped = String::with_capacity(text.len());
            for c in text.chars() {
                if c.is_uppercase() {
                    swapped.extend(c.to_lowercase());
                } else {
                    swapped.extend(c.to_uppercase());
                }
            }
            Value::from(swapped)
        }
        // Good enough: Python also makes "ss" of the sharp s, and the like.
        "casefold" => {
            from_args::<()>(args)?;
            Value::from(text.to_lowercase())
        }
        "title" => {
            from_args::<()>(args)?;
            Value::from(title(text))
        }
        _ => return Ok(None),
    }))
}

fn refuse(reason: &'static str) -> Error {
    Error::new(ErrorKind::InvalidOperation, reason)
}

/// How many characters a text is short of a width. They are paid for.
fn missing(state: &State<'_, '_>, text: &str, width: i64, fill: &str) -> Result<usize, Error> {
    let missing = usize::try_from(width).unwrap_or(0).saturating_sub(text.chars().count());
    state.consume_fuel(missing.saturating_mul(fill.len()) as u64 / 64)?;
    Ok(missing)
}

/// What is from a character on, and which one that is; nothing if the text is shorter.
fn tail(text: &str, start: i64) -> Option<(usize, &str)> {
    let len = text.chars().count();
    let start = match usize::try_from(start) {
        Ok(start) => start,
        // From the end.
        Err(_) => len.saturating_sub(usize::try_from(start.unsigned_abs()).unwrap_or(usize::MAX)),
    };
    if start == len {
        return Some((start, ""));
    }
    let (at, _) = text.char_indices().nth(start)?;
    Some((start, text.get(at..)?))
}

fn find(text: &str, part: &str, start: Option<i64>) -> Option<usize> {
    let (start, tail) = tail(text, start.unwrap_or(0))?;
    let (before, _) = tail.split_once(part)?;
    Some(start + before.chars().count())
}

fn rsplit(text: &str, separator: Option<&str>, limit: Option<i64>) -> Result<Value, Error> {
    let limit = limit.and_then(|limit| usize::try_from(limit).ok()).unwrap_or(usize::MAX);
    let mut pieces = Vec::new();
    match separator {
        Some("") => return Err(refuse("a text is split at nothing")),
        Some(separator) => pieces.extend(text.rsplitn(limit.saturating_add(1), separator)),
        None => {
            let mut rest = text.trim_end();
            while !rest.is_empty() {
                let cut = if pieces.len() < limit { rest.rsplit_once(char::is_whitespace) } else { None };
                let (before, piece) = cut.unwrap_or(("", rest));
                pieces.push(piece);
                rest = before.trim_end();
            }
        }
    }
    Ok(pieces.into_iter().rev().map(Value::from).collect())
}

/// A letter is upper case after anything but a letter.
fn title(text: &str) -> String {
    let mut title = String::with_capacity(text.len());
    let mut after_letter = false;
    for c in text.chars() {
        if after_letter {
            title.extend(c.to_lowercase());
        } else {
            title.extend(c.to_uppercase());
        }
        after_letter = c.is_lowercase() || c.is_uppercase();
    }
    title
}
