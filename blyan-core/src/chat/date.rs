//! Owns the time that a chat template may print.

use std::fmt::Write;

const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];
const DAYS: [&str; 7] = ["Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"];

/// A date and time of day, in whatever time zone the caller lives in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CivilTime {
    year: u32,
    month: u32,
    day: u32,
    hour: u32,
    minute: u32,
    second: u32,
}

/// A time that does not exist or cannot be printed as asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DateError {
    /// No such time.
    #[error("{field} = {value} is out of range")]
    OutOfRange {
        /// What is out of range.
        field: &'static str,
        /// Its value.
        value: u32,
    },
    /// A directive of `strftime` that is not supported.
    #[error("strftime's %{directive} is not supported")]
    Directive {
        /// The letter.
        directive: char,
    },
}

fn is_leap(year: u32) -> bool {
    year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400))
}

fn days_in_month(year: u32, month: u32) -> u32 {
    match month {
        2 if is_leap(year) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

impl CivilTime {
    /// A time of the Gregorian calendar, years 1 to 9999, months and days from 1.
    ///
    /// # Errors
    ///
    /// [`DateError::OutOfRange`] naming the first part that does not exist.
    pub fn new(
        (year, month, day): (u32, u32, u32),
        (hour, minute, second): (u32, u32, u32),
    ) -> Result<Self, DateError> {
        let check = |field, value: u32, least, most| {
            if (least..=most).contains(&value) { Ok(()) } else { Err(DateError::OutOfRange { field, value }) }
        };
        check("year", year, 1, 9999)?;
        check("month", month, 1, 12)?;
        check("day", day, 1, days_in_month(year, month))?;
        check("hour", hour, 0, 23)?;
        check("minute", minute, 0, 59)?;
        check("second", second, 0, 59)?;
        Ok(Self { year, month, day, hour, minute, second })
    }

    /// Day of the year, from 1.
    fn day_of_year(&self) -> u32 {
        (1..self.month).map(|month| days_in_month(self.year, month)).sum::<u32>() + self.day
    }

    /// Day of the week, Sunday = 0.
    fn weekday(&self) -> u32 {
        let before = self.year - 1;
        // 1 January of the year 1 was a Monday.
        (before * 365 + before / 4 - before / 100 + before / 400 + self.day_of_year()) % 7
    }

    /// Prints as C's `strftime` in the C locale.
    ///
    /// # Errors
    ///
    /// [`DateError::Directive`] for a directive that is none of `aAbBdeHIjmMpSwyYDFT%`, with or
    /// without `-`.
    pub fn format(&self, format: &str) -> Result<String, DateError> {
        let mut out = String::new();
        let mut chars = format.chars();
        while let Some(c) = chars.next() {
            if c != '%' {
                out.push(c);
                continue;
            }
            let mut directive = chars.next().unwrap_or('%');
            let padded = directive != '-';
            if !padded {
                directive = chars.next().unwrap_or('-');
            }
            let name = |names: &[&'static str], index: u32| names.get(index as usize).copied().unwrap_or("");
            let short = |name: &'static str| name.get(..3).unwrap_or(name);
            let hour12 = (self.hour + 11) % 12 + 1;
            let (number, width) = match directive {
                'Y' => (self.year, 4),
                'y' => (self.year % 100, 2),
                'm' => (self.month, 2),
                'd' => (self.day, 2),
                'H' => (self.hour, 2),
                'I' => (hour12, 2),
                'M' => (self.minute, 2),
                'S' => (self.second, 2),
                'j' => (self.day_of_year(), 3),
                'w' => (self.weekday(), 1),
                _ => {
                    match directive {
                        'B' => out.push_str(name(&MONTHS, self.month - 1)),
                        'b' | 'h' => out.push_str(short(name(&MONTHS, self.month - 1))),
                        'A' => out.push_str(name(&DAYS, self.weekday())),
                        'a' => out.push_str(short(name(&DAYS, self.weekday()))),
                        'p' => out.push_str(if self.hour < 12 { "AM" } else { "PM" }),
                        'e' if padded => {
                            let _ = write!(out, "{:2}", self.day);
                        }
                        'e' => {
                            let _ = write!(out, "{}", self.day);
                        }
                        'D' => out.push_str(&self.format("%m/%d/%y")?),
                        'F' => out.push_str(&self.format("%Y-%m-%d")?),
                        'T' => out.push_str(&self.format("%H:%M:%S")?),
                        '%' => out.push('%'),
                        directive => return Err(DateError::Directive { directive }),
                    }
                    continue;
                }
            };
            let width = if padded { width } else { 1 };
            let _ = write!(out, "{number:0width$}");
        }
        Ok(out)
    }
}
