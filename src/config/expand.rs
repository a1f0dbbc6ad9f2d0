//! `$NAME` and `${NAME}` in the text of `feature_store.yaml`, exactly as Python's `os.path.expandvars`
//! does it, because Feast runs that over the raw text: no defaults, no escape, unknown names stay.

use std::collections::BTreeMap;

/// Replaces what the environment knows.
pub(super) fn expand(text: &str, env: &BTreeMap<String, String>) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(start) = rest.find('$') {
        let (before, after) = rest.split_at(start);
        out.push_str(before);
        let (whole, name) = reference(after);
        match name.and_then(|name| env.get(name)) {
            Some(value) => out.push_str(value),
            None => out.push_str(whole),
        }
        rest = after.get(whole.len()..).unwrap_or_default();
    }
    out.push_str(rest);
    out
}

/// Splits the reference off the front of `text`, which starts with `$`: its whole text and its name.
fn reference(text: &str) -> (&str, Option<&str>) {
    let body = text.get(1..).unwrap_or_default();
    if let Some(braced) = body.strip_prefix('{') {
        return match braced.find('}') {
            Some(end) => (text.get(..end + 3).unwrap_or(text), braced.get(..end)),
            None => (text.get(..2).unwrap_or(text), None),
        };
    }
    let end = body
        .find(|c: char| !(c.is_ascii_alphanumeric() || c == '_'))
        .unwrap_or(body.len());
    if end == 0 {
        (text.get(..1).unwrap_or(text), None)
    } else {
        (text.get(..=end).unwrap_or(text), body.get(..end))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_does_what_python_does() {
        let env = BTreeMap::from([
            ("A".to_owned(), "1".to_owned()),
            ("A_b".to_owned(), "2$A".to_owned()),
        ]);
        for (text, expected) in [
            ("x: $A", "x: 1"),
            ("${A}${A_b}", "12$A"),
            ("$A_b.$A-$A", "2$A.1-1"),
            ("$MISSING ${MISSING} ${A:-y}", "$MISSING ${MISSING} ${A:-y}"),
            ("$$A $ ${ ${A", "$1 $ ${ ${A"),
            ("${}$", "${}$"),
            ("ä$Aä", "ä1ä"),
        ] {
            assert_eq!(expand(text, &env), expected, "{text}");
        }
    }
}
