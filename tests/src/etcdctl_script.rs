//! Scripts of etcdctl calls, as text.
//!
//! One idea: a line is what a person would type after `etcdctl`, so that a script can be read and
//! written without this file. A script runs on a fresh server; its name is a sentence.
//!
//! ```text
//! # comment
//! server --max-txn-ops=4          flags of the server, before the first call
//! put key value                   a call; quotes as in a shell, "\n \t \x00" within ""
//! put key < "from stdin"          standard input; $(x*100) is 100 times x
//! txn << END                      standard input up to the line END
//! let lease = lease grant 60      the last id in the output becomes $lease
//! [unordered] lease list          only which words it prints; modes may be combined
//! [exit code only] get --nosuch   only the exit code is compared
//! [until empty] get key           repeated until nothing is printed (at most 60 s)
//! start w: watch key              in the background; returns once the server knows the watcher
//! type w: watch other             to its standard input
//! await w 3                       until it has printed 3 lines (at most 60 s); or await w "text"
//! stop w                          kills it and compares what it printed
//! finish w                        waits for its own end, and compares the exit code too
//! restart                         the server ends (SIGTERM) and is started again on its data
//! crash                           the same with SIGKILL
//! differs: why                    etcd 3.4 does otherwise; what follows is what 3.7 and varve do:
//! | line of standard output
//! | ! line of standard error
//! | exit 1
//! ```
//!
//! What it does not do: run anything.

use std::collections::BTreeMap;

/// What a line asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// A call that is waited for.
    Call {
        /// Words after `etcdctl`.
        arguments: Vec<String>,
        /// Standard input.
        input: String,
        /// Variable that takes the last id of the output.
        capture: Option<String>,
        /// The words of the output are compared, whatever their order.
        unordered: bool,
        /// Only the exit code is compared.
        exit_code_only: bool,
        /// Repeat until nothing is printed.
        until_empty: bool,
    },
    /// A call in the background.
    Start {
        /// Name within the script.
        name: String,
        /// Words after `etcdctl`.
        arguments: Vec<String>,
    },
    /// Standard input of a call in the background.
    Type {
        /// Name within the script.
        name: String,
        /// The words, to be followed by a newline.
        words: Vec<String>,
    },
    /// Wait for lines of a call in the background.
    AwaitLines {
        /// Name within the script.
        name: String,
        /// Lines since it was started.
        count: usize,
    },
    /// Wait for a text of a call in the background.
    AwaitText {
        /// Name within the script.
        name: String,
        /// What must be printed.
        text: String,
    },
    /// End the server and start it again on its data.
    Restart {
        /// SIGKILL instead of SIGTERM.
        crash: bool,
    },
    /// Kill a call in the background.
    Stop {
        /// Name within the script.
        name: String,
    },
    /// Wait for the end of a call in the background.
    Finish {
        /// Name within the script.
        name: String,
    },
}

/// Output that etcd 3.4 does not give.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Differs {
    /// Why the two differ.
    pub reason: String,
    /// The transcript of etcd 3.7 and varve, one line each.
    pub expected: Vec<String>,
}

/// One line of a script.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// Line number in the file, from 1.
    pub line: usize,
    /// The line as written.
    pub source: String,
    /// What it asks for.
    pub action: Action,
    /// A note that etcd 3.4 does otherwise.
    pub differs: Option<Differs>,
}

/// A parsed script.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Script {
    /// Flags of the server.
    pub server_flags: Vec<String>,
    /// What to do, in order.
    pub steps: Vec<Step>,
}

impl Script {
    /// Parses a script.
    ///
    /// # Errors
    ///
    /// The line number, and what was expected there.
    pub fn parse(text: &str) -> Result<Script, String> {
        let mut script = Script::default();
        let mut lines = text.lines().enumerate().map(|(number, line)| (number + 1, line));
        while let Some((number, line)) = lines.next() {
            let trimmed = line.trim();
            if trimmed.is_empty() || trimmed.starts_with('#') {
                continue;
            }
            let fail = |message: &str| format!("line {number}: {message}: {trimmed}");
            if let Some(flags) = trimmed.strip_prefix("server ") {
                script.server_flags.extend(words(flags).map_err(|error| fail(&error))?);
            } else if let Some(reason) = trimmed.strip_prefix("differs:") {
                let step = script.steps.last_mut().ok_or_else(|| fail("a step before"))?;
                let reason = reason.trim().to_owned();
                step.differs = Some(Differs { reason, expected: Vec::new() });
            } else if let Some(expected) = trimmed.strip_prefix('|') {
                let note = script.steps.last_mut().and_then(|step| step.differs.as_mut());
                let note = note.ok_or_else(|| fail("a note `differs:` before"))?;
                note.expected.push(expected.strip_prefix(' ').unwrap_or(expected).to_owned());
            } else {
                let (head, end) = match trimmed.split_once(" << ") {
                    Some((head, end)) => (head, Some(end.trim())),
                    None => (trimmed, None),
                };
                let mut action = parse_action(head).map_err(|error| fail(&error))?;
                if let (Some(end), Action::Call { input, .. }) = (end, &mut action) {
                    loop {
                        let (_, text) = lines.next().ok_or_else(|| fail("no end of the input"))?;
                        if text == end {
                            break;
                        }
                        input.push_str(text);
                        input.push('\n');
                    }
                }
                let source = trimmed.to_owned();
                script.steps.push(Step { line: number, source, action, differs: None });
            }
        }
        Ok(script)
    }

    /// Forgets all notes: the two sides must agree everywhere.
    pub fn drop_notes(&mut self) {
        self.steps.iter_mut().for_each(|step| step.differs = None);
    }

    /// How many times etcdctl is run.
    pub fn calls(&self) -> usize {
        self.steps
            .iter()
            .filter(|step| matches!(step.action, Action::Call { .. } | Action::Start { .. }))
            .count()
    }
}

fn parse_action(line: &str) -> Result<Action, String> {
    for (verb, make) in [
        ("start ", (|name, arguments| Action::Start { name, arguments }) as fn(_, _) -> _),
        ("type ", |name, words| Action::Type { name, words }),
    ] {
        if let Some((name, rest)) = line.strip_prefix(verb).and_then(|rest| rest.split_once(':')) {
            return Ok(make(name.trim().to_owned(), words(rest)?));
        }
    }
    let all = words(line)?;
    match all.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        ["restart"] => return Ok(Action::Restart { crash: false }),
        ["crash"] => return Ok(Action::Restart { crash: true }),
        ["stop", name] => return Ok(Action::Stop { name: (*name).to_owned() }),
        ["finish", name] => return Ok(Action::Finish { name: (*name).to_owned() }),
        ["await", name, what] => {
            let name = (*name).to_owned();
            return Ok(match what.parse() {
                Ok(count) => Action::AwaitLines { name, count },
                Err(_) => Action::AwaitText { name, text: (*what).to_owned() },
            });
        }
        _ => {}
    }
    parse_call(line)
}

fn parse_call(line: &str) -> Result<Action, String> {
    let mut rest = line;
    let (mut unordered, mut exit_code_only, mut until_empty) = (false, false, false);
    while let Some((mode, after)) = rest.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        match mode {
            "unordered" => unordered = true,
            "exit code only" => exit_code_only = true,
            "until empty" => until_empty = true,
            _ => return Err(format!("unordered, exit code only or until empty, not {mode:?}")),
        }
        rest = after.trim_start();
    }
    let mut capture = None;
    if let Some((name, after)) = rest.strip_prefix("let ").and_then(|rest| rest.split_once(" = ")) {
        capture = Some(name.trim().to_owned());
        rest = after;
    }
    let (call, input) = match rest.split_once(" < ") {
        Some((call, input)) => (call, words(input)?.concat()),
        None => (rest, String::new()),
    };
    let arguments = words(call)?;
    if arguments.iter().any(|argument| argument.contains('\0')) {
        return Err("no \\x00 in an argument: the system ends it there".into());
    }
    Ok(Action::Call { arguments, input, capture, unordered, exit_code_only, until_empty })
}

/// Splits a line into words as a shell does: `'` keeps everything, `"` knows escapes, and
/// `$(text*count)` repeats. Variables are left alone, for [`substitute`].
fn words(line: &str) -> Result<Vec<String>, String> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut characters = line.chars().peekable();
    while let Some(character) = characters.next() {
        match character {
            ' ' | '\t' => words.extend(word.take()),
            '\'' => {
                let word = word.get_or_insert_default();
                loop {
                    match characters.next().ok_or("a closing '")? {
                        '\'' => break,
                        other => word.push(other),
                    }
                }
            }
            '"' => {
                let word = word.get_or_insert_default();
                loop {
                    match characters.next().ok_or("a closing \"")? {
                        '"' => break,
                        '\\' => word.push(escape(&mut characters)?),
                        other => word.push(other),
                    }
                }
            }
            '$' if characters.peek() == Some(&'(') => {
                characters.next();
                let inner: String = characters.by_ref().take_while(|c| *c != ')').collect();
                let (text, count) = inner.split_once('*').ok_or("text*count in $(...)")?;
                let count: usize = count.parse().map_err(|_| "a number after *")?;
                word.get_or_insert_default().push_str(&text.repeat(count));
            }
            other => word.get_or_insert_default().push(other),
        }
    }
    words.extend(word);
    Ok(words)
}

fn escape(characters: &mut impl Iterator<Item = char>) -> Result<char, String> {
    match characters.next().ok_or("something after \\")? {
        'n' => Ok('\n'),
        't' => Ok('\t'),
        'x' => {
            let digits: String = characters.take(2).collect();
            let byte = u8::from_str_radix(&digits, 16).map_err(|_| "two hex digits after \\x")?;
            Ok(char::from(byte))
        }
        other => Ok(other),
    }
}

/// Puts the values of variables in place of `$name`; unknown ones stay.
pub fn substitute(text: &str, variables: &BTreeMap<String, String>) -> String {
    let mut result = text.to_owned();
    // Longest first, so that $lease2 is not $lease followed by 2.
    let mut names: Vec<&String> = variables.keys().collect();
    names.sort_by_key(|name| std::cmp::Reverse(name.len()));
    for name in names {
        result = result.replace(&format!("${name}"), &variables[name]);
    }
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_split_as_in_a_shell() {
        assert_eq!(words("put a  'b c' \"d\\n\\x01\"").unwrap(), ["put", "a", "b c", "d\n\x01"]);
        assert_eq!(words("get '' --limit=1").unwrap(), ["get", "", "--limit=1"]);
        assert_eq!(words("put $lease $(ab*3)").unwrap(), ["put", "$lease", "ababab"]);
        assert!(words("put 'a").is_err());
    }

    #[test]
    fn a_script_has_flags_calls_input_background_and_notes() {
        let script = Script::parse(
            "# say hello\nserver --max-txn-ops=4\nput a b\nlet l = lease grant 5\ntxn << .\n\nput x y\n.\n\
             [unordered] [until empty] get a\nstart w: watch a\nawait w 2\nstop w\n\
             differs: new\n| OK\n| ! oops\n|\n",
        )
        .unwrap();
        assert_eq!(script.server_flags, ["--max-txn-ops=4"]);
        assert_eq!(script.calls(), 5);
        let Action::Call { input, .. } = &script.steps[2].action else { panic!("a call") };
        assert_eq!(input, "\nput x y\n");
        let Action::Call { unordered, until_empty, .. } = &script.steps[3].action else {
            panic!("a call")
        };
        assert!(*unordered && *until_empty);
        let note = script.steps[6].differs.as_ref().unwrap();
        assert_eq!((note.reason.as_str(), note.expected.len()), ("new", 3));
    }

    #[test]
    fn a_longer_variable_name_wins() {
        let variables =
            BTreeMap::from([("a".to_owned(), "1".to_owned()), ("ab".to_owned(), "2".to_owned())]);
        assert_eq!(substitute("$a $ab $c", &variables), "1 2 $c");
    }
}
