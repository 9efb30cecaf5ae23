//! A command line of `--name value` and `--name=value` pairs.
//!
//! One idea: every program takes its values by name, with a default beside the place that uses
//! them, and refuses what nobody asked for.
//!
//! What it does not do: flags without a value, abbreviations, help texts.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::str::FromStr;

/// What was given on a command line and not taken yet.
#[derive(Debug, Default)]
pub struct Arguments {
    words: Vec<String>,
    values: BTreeMap<String, String>,
}

impl Arguments {
    /// The command line of this process.
    ///
    /// # Errors
    /// As [`Arguments::parse`].
    pub fn of_process() -> Result<Self, String> {
        Self::parse(std::env::args().skip(1))
    }

    /// Words without a name first, then pairs.
    ///
    /// # Errors
    /// A name without a value or given twice, or a word behind the pairs.
    pub fn parse(given: impl IntoIterator<Item = String>) -> Result<Self, String> {
        let mut arguments = Self::default();
        let mut given = given.into_iter();
        while let Some(word) = given.next() {
            let Some(name) = word.strip_prefix("--") else {
                if !arguments.values.is_empty() {
                    return Err(format!("expected --name value, found {word}"));
                }
                arguments.words.push(word);
                continue;
            };
            let (name, value) = match name.split_once('=') {
                Some((name, value)) => (name.to_owned(), value.to_owned()),
                None => {
                    let value = given.next().ok_or_else(|| format!("--{name} needs a value"))?;
                    (name.to_owned(), value)
                }
            };
            if arguments.values.insert(name.clone(), value).is_some() {
                return Err(format!("--{name} is given twice"));
            }
        }
        Ok(arguments)
    }

    /// The words in front of the pairs.
    pub fn words(&self) -> &[String] {
        &self.words
    }

    /// Takes a value; `None` if it was not given.
    ///
    /// # Errors
    /// When it does not parse.
    pub fn optional<T: FromStr>(&mut self, name: &str) -> Result<Option<T>, String>
    where
        T::Err: Display,
    {
        let Some(text) = self.values.remove(name) else { return Ok(None) };
        match text.parse() {
            Ok(value) => Ok(Some(value)),
            Err(error) => Err(format!("--{name} {text}: {error}")),
        }
    }

    /// Takes a value, or `default` if it was not given.
    ///
    /// # Errors
    /// When it does not parse.
    pub fn value<T: FromStr>(&mut self, name: &str, default: T) -> Result<T, String>
    where
        T::Err: Display,
    {
        Ok(self.optional(name)?.unwrap_or(default))
    }

    /// Takes a list separated by commas, or `default`.
    ///
    /// # Errors
    /// When a part does not parse.
    pub fn list<T: FromStr>(&mut self, name: &str, default: Vec<T>) -> Result<Vec<T>, String>
    where
        T::Err: Display,
    {
        let Some(text) = self.optional::<String>(name)? else { return Ok(default) };
        let parse = |part: &str| part.parse().map_err(|error| format!("--{name} {part}: {error}"));
        text.split(',').map(parse).collect()
    }

    /// Ends the parsing.
    ///
    /// # Errors
    /// Names what nobody took.
    pub fn finish(self) -> Result<(), String> {
        match self.values.keys().next() {
            Some(name) => Err(format!("unknown option --{name}")),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Arguments, String> {
        Arguments::parse(line.split(' ').map(str::to_owned))
    }

    #[test]
    fn words_then_pairs_are_taken() {
        let mut arguments = parse("put get --clients 3 --rate=2.5 --sizes 1,2").unwrap();
        assert_eq!(arguments.words(), ["put", "get"]);
        assert_eq!(arguments.value("clients", 1), Ok(3));
        assert_eq!(arguments.optional("rate"), Ok(Some(2.5)));
        assert_eq!(arguments.value("total", 7), Ok(7));
        assert_eq!(arguments.list("sizes", vec![9]), Ok(vec![1, 2]));
        assert_eq!(arguments.finish(), Ok(()));
    }

    #[test]
    fn mistakes_are_named() {
        assert_eq!(parse("--a").unwrap_err(), "--a needs a value");
        assert_eq!(parse("--a 1 --a 2").unwrap_err(), "--a is given twice");
        assert_eq!(parse("--a 1 b").unwrap_err(), "expected --name value, found b");
        let mut arguments = parse("--a x --b 1").unwrap();
        assert_eq!(arguments.value("a", 1), Err("--a x: invalid digit found in string".to_owned()));
        assert_eq!(arguments.finish(), Err("unknown option --b".to_owned()));
    }
}
