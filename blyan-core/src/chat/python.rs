//! Owns the methods of Python's texts: what they cost, and those that the engine lacks or has otherwise.

use minijinja::value::{Kwargs, ValueKind, from_args};
use minijinja::{Error, ErrorKind, State, Value};

use super::json;

/// Fuel for a field that `format` fills, besides its width and arguments: the longest number has some
/// 400 bytes.
const FIELD_FUEL: u64 = 8;

/// Python's methods. Fuel pays for the texts they read, and beforehand for what they may make of them.
pub(super) fn method(
    state: &mut State<'_, '_>,
    value: &Value,
    method: &str,
    args: &[Value],
) -> Result<Value, Error> {
    let split_at;
    let args = match method {
        "split" | "rsplit" => {
            let (given, kwargs): (&[Value], Kwargs) = from_args(args)?;
            split_at = places(given, &kwargs, ["sep", "maxsplit"])?;
            split_at.as_slice()
        }
        _ => args,
    };
    if let Some(text) = value.as_str() {
        let bytes = |value: &Value| value.as_str().map_or(0, str::len);
        let made = match (method, args) {
            ("replace", [old, new, ..]) => {
                let matches = old.as_str().map_or(0, |old| text.matches(old).count());
                matches.saturating_mul(bytes(new))
            }
            ("join", [list]) => {
                let mut sum = 0_usize;
                for item in list.try_iter()? {
                    state.consume_fuel(1)?;
                    json::pay_for(state, &item)?;
                    sum = sum.saturating_add(text.len());
                }
                sum
            }
            ("format", _) => {
                // Any field may be any argument.
                let mut field = FIELD_FUEL;
                for arg in args {
                    field += 1 + json::pay_for(state, arg)?;
                }
                let fields = text.matches('{').count() as u64;
                // A character has up to 4 bytes.
                state.consume_fuel(fields.saturating_mul(field).saturating_add(widths(text) / 16))?;
                0
            }
            // Each piece is a value.
            ("split" | "rsplit", _) => {
                let pieces = match args.first().and_then(Value::as_str) {
                    Some(separator) => text.matches(separator).count(),
                    None => text.split_whitespace().count(),
                };
                pieces.saturating_mul(64)
            }
            ("splitlines", _) => text.lines().count().saturating_mul(64),
            // These look up each character among those given.
            ("strip" | "lstrip" | "rstrip", [chars, ..]) => text.len().saturating_mul(bytes(chars)),
            ("startswith" | "endswith", [list])
                if matches!(list.kind(), ValueKind::Seq | ValueKind::Iterable) =>
            {
                let mut sum = 0_usize;
                for item in list.try_iter()? {
                    state.consume_fuel(1)?;
                    sum = sum.saturating_add(bytes(&item));
                }
                sum
            }
            _ => 0,
        };
        let read = args.iter().map(bytes).fold(text.len(), usize::saturating_add);
        state.consume_fuel(made.saturating_add(read) as u64 / 64)?;
        if let Some(value) = text_method(state, text, method, args)? {
            return Ok(value);
        }
    }
    minijinja_contrib::pycompat::unknown_method_callback(state, value, method, args)
}

/// The sum of the widths and precisions in a text for `format`: of the numbers in what may end a field,
/// some of which may be none. One over 65,535 counts as more than any fuel: the engine panics on some.
fn widths(text: &str) -> u64 {
    let ends_field = |c: char| c.is_ascii_digit() || ".,_bdeEfFgGoxXcs".contains(c);
    let fields = text.split_inclusive('}').filter_map(|part| part.strip_suffix('}'));
    let ends = fields.filter_map(|field| field.rsplit(|c: char| !ends_field(c)).next());
    ends.flat_map(|end| end.split(|c: char| !c.is_ascii_digit()))
        .filter(|digits| !digits.is_empty())
        .map(|digits| digits.parse::<u16>().map_or(u64::MAX, u64::from))
        .fold(0, u64::saturating_add)
}

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
fn text_method(
    state: &State<'_, '_>,
    text: &str,
    method: &str,
    args: &[Value],
) -> Result<Option<Value>, Error> {
    Ok(Some(match method {
        "removeprefix" => {
            let (part,): (&str,) = from_args(args)?;
            Value::from(text.strip_prefix(part).unwrap_or(text))
        }
        "removesuffix" => {
            let (part,): (&str,) = from_args(args)?;
            Value::from(text.strip_suffix(part).unwrap_or(text))
        }
        "partition" | "rpartition" => {
            let (part,): (&str,) = from_args(args)?;
            let parts = match method {
                _ if part.is_empty() => return Err(refuse("a text is parted at nothing")),
                "partition" => {
                    text.split_once(part).map_or([text, "", ""], |(before, after)| [before, part, after])
                }
                _ => text.rsplit_once(part).map_or(["", "", text], |(before, after)| [before, part, after]),
            };
            parts.into_iter().map(Value::from).collect()
        }
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
