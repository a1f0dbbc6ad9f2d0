//! Stores within a store: a list of `{type, conf}`, each checked like a section of its own.

use super::{
    build::unsupported,
    check::{Walk, join},
    problem::Problem,
    schema::Store,
    yaml::{Node, Value},
};

impl Walk {
    /// Walks the list that stands at `path`. Types are as Feast compares them: their last part, in lower
    /// case. They become settings `path.N.type` and `path.N.conf.…`.
    pub(super) fn stores(&mut self, store: &'static Store, path: &str, node: &Node) {
        let Value::List(items) = &node.value else {
            let problem = Problem::error(format!("a list of stores is wanted here, not {}", node.what()));
            self.report(
                problem
                    .at(node.line)
                    .key(path)
                    .hint("`- {type: …, conf: {…}}` for each"),
            );
            return;
        };
        if items.is_empty() {
            self.report(
                Problem::error("at least one store is wanted")
                    .at(node.line)
                    .key(path),
            );
        }
        let mut seen: Vec<String> = Vec::new();
        for (number, item) in items.iter().enumerate() {
            let place = join(path, &number.to_string());
            if let Some(name) = self.store_entry(store, &place, item) {
                if seen.contains(&name) {
                    let problem = Problem::error(format!("there are two stores of type `{name}`"));
                    self.report(
                        problem.at(item.line).key(join(&place, "type")).hint(
                            "what belongs to a store is told by its type, so each type can be there once",
                        ),
                    );
                }
                seen.push(name);
            }
        }
    }

    /// One entry; its type if thali has it.
    fn store_entry(&mut self, store: &'static Store, place: &str, item: &Node) -> Option<String> {
        if !matches!(item.value, Value::Map(_)) {
            let problem = Problem::error(format!("a mapping is wanted here, not {}", item.what()));
            self.report(problem.at(item.line).key(place).hint("`{type: …, conf: {…}}`"));
            return None;
        }
        const KEYS: [&str; 2] = ["type", "conf"];
        for entry in item.entries() {
            if !KEYS.contains(&entry.key.as_str()) {
                let problem = Problem::error("unknown key").at(entry.line);
                self.report(problem.key(join(place, &entry.key)).suggest(&entry.key, KEYS));
            }
        }
        let type_place = join(place, "type");
        let Some(written) = item.get("type").and_then(Node::scalar) else {
            self.report(Problem::error("missing").at(item.line).key(type_place));
            return None;
        };
        let line = item.entry("type").map_or(item.line, |entry| entry.line);
        let name = written.rsplit('.').next().unwrap_or_default().to_lowercase();
        let found = (store.supported)().into_iter().find(|(known, _)| *known == name);
        let Some((_, keys)) = found else {
            self.report(unsupported(store, &name).at(line).key(type_place));
            return None;
        };
        if name == "hybrid" || (name == "remote" && store.section == "offline_store") {
            let text = format!("{} `{name}` cannot be one of several", store.label);
            self.report(Problem::error(text).at(line).key(type_place));
            return None;
        }
        self.set_text(&type_place, &name, line);
        let conf = item.get("conf").filter(|node| node.value != Value::Null);
        self.section(&join(place, "conf"), conf, keys);
        Some(name)
    }
}
