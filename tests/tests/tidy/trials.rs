//! Names in the code that only simulations look for (`varve_disk::trial`), held against the lists of
//! the simulator: a name that nobody lists is never missed.

use std::collections::BTreeSet;

use crate::tree::{self, TextFile};

/// What differs between the calls in the code and the lists.
pub fn violations(files: &[TextFile]) -> Vec<String> {
    let marks = tree::read("sim/src/marks.rs");
    let list = marks.split("pub const CODE").nth(1).and_then(|rest| rest.split("];").next());
    let listed = quoted(list.expect("sim/src/marks.rs lists CODE"), "\"");
    let planted = quoted(&tree::read("sim/src/plant.rs"), "within(\"");
    let code = files.iter().filter(|file| file.path.contains("/src/") && file.top() != "sim");
    let code: Vec<&TextFile> = code.filter(|file| !file.path.starts_with("tests/")).collect();
    let called = |call: &str| -> BTreeSet<String> {
        code.iter().flat_map(|file| quoted(&file.text, call)).collect()
    };
    // Marks of several outcomes are chosen before the call.
    let is_known =
        |name: &String| code.iter().any(|file| file.text.contains(&format!("\"{name}\"")));
    let mut found = Vec::new();
    let unlisted = called("trial::reach(\"").difference(&listed).cloned().collect::<Vec<_>>();
    found.extend(unlisted.iter().map(|name| format!("{name}: reached and not in CODE")));
    let gone = listed.iter().filter(|name| !is_known(name));
    found.extend(gone.map(|name| format!("{name}: in CODE and nowhere reached")));
    let bugs = called("has_bug(\"");
    let differing = bugs.symmetric_difference(&planted);
    found.extend(differing.map(|name| format!("{name}: not in both, the code and PLANTS")));
    found
}

/// What stands between each `opening` and the next quotation mark.
fn quoted(text: &str, opening: &str) -> BTreeSet<String> {
    if opening == "\"" {
        return text.split('"').skip(1).step_by(2).map(str::to_owned).collect();
    }
    let behind = text.split(opening).skip(1);
    behind.filter_map(|rest| rest.split('"').next()).map(str::to_owned).collect()
}
