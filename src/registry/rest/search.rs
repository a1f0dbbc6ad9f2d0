//! `GET /search`: everything whose name, description or tags match, best first.

use std::collections::{BTreeMap, BTreeSet};

use axum::{Json, extract::State};
use serde_json::{Map, Value, json};

use super::{
    Shared,
    objects::{self, Content, Item},
    params::Params,
    reply::{Answer, Failure},
};
use crate::{
    error::Result,
    model::ObjectKind,
    proto::feast::registry::PaginationParams,
    registry::{Catalog, listing},
};

/// What is searched, and the type of each hit.
const SEARCHED: [(&str, Content); 8] = [
    ("entity", Content::Kind(ObjectKind::Entity)),
    ("dataSource", Content::Kind(ObjectKind::DataSource)),
    ("featureView", Content::Views),
    ("labelView", Content::Kind(ObjectKind::LabelView)),
    ("feature", Content::Fields("")),
    ("label", Content::Fields("label")),
    ("featureService", Content::Kind(ObjectKind::FeatureService)),
    ("savedDataset", Content::Kind(ObjectKind::SavedDataset)),
];

const NAME: f64 = 100.0;
const DESCRIPTION: f64 = 80.0;
const TAG: f64 = 60.0;
/// The least similarity that counts.
const FUZZY: f64 = 0.75;

/// A thing that may match.
struct Candidate {
    kind: &'static str,
    name: String,
    description: String,
    tags: BTreeMap<String, String>,
    project: String,
    /// Of features and labels.
    view: Option<String>,
}

/// A score and the tags that matched.
struct Match {
    score: Option<f64>,
    tags: BTreeMap<String, String>,
}

impl Candidate {
    fn of(catalog: &Catalog, kind: &'static str, item: &Item) -> Result<Self> {
        let project = catalog.project().to_owned();
        Ok(match item {
            Item::Object(object) => Self {
                kind,
                name: object.name.clone(),
                description: listing::text(object, "description")?,
                tags: listing::tags(object)?,
                project,
                view: None,
            },
            Item::Field(feature) => Self {
                kind,
                name: feature.name.clone(),
                description: feature.description.clone(),
                tags: feature.tags.clone(),
                project,
                view: Some(feature.feature_view.clone()),
            },
        })
    }

    /// How well it matches, if at all; an empty query matches everything without a score.
    fn matches(&self, query: &str) -> Option<Match> {
        if query.is_empty() {
            return Some(Match {
                score: None,
                tags: self.tags.clone(),
            });
        }
        let query = query.to_lowercase();
        let mut tags = BTreeMap::new();
        let (mut exact, mut best) = (false, 0.0_f64);
        for (key, value) in &self.tags {
            let tag = format!("{key}={value}").to_lowercase();
            let similarity = similarity(&query, &tag);
            if tag.contains(&query) {
                exact = true;
            } else if similarity >= FUZZY {
                best = best.max(similarity);
            } else {
                continue;
            }
            tags.insert(key.clone(), value.clone());
        }
        let name = self.name.to_lowercase();
        let score = if name.contains(&query) {
            NAME
        } else if self.description.to_lowercase().contains(&query) {
            DESCRIPTION
        } else if exact {
            TAG
        } else if best >= FUZZY {
            best * 100.0
        } else {
            let similarity = similarity(&query, &name);
            (similarity >= FUZZY).then_some(similarity * 100.0)?
        };
        Some(Match {
            score: Some(score),
            tags,
        })
    }

    fn json(&self, found: &Match) -> Value {
        let mut fields = Map::new();
        fields.insert("type".to_owned(), self.kind.into());
        fields.insert("name".to_owned(), self.name.as_str().into());
        fields.insert("description".to_owned(), self.description.as_str().into());
        fields.insert("project".to_owned(), self.project.as_str().into());
        if let Some(view) = &self.view {
            let key = if self.kind == "label" {
                "labelView"
            } else {
                "featureView"
            };
            fields.insert(key.to_owned(), view.as_str().into());
        }
        fields.insert("matched_tags".to_owned(), json!(found.tags));
        if let Some(score) = found.score {
            // Feast's fixed scores are integers.
            let whole = score.fract() == 0.0;
            #[expect(clippy::cast_possible_truncation, reason = "scores are at most 100")]
            let score = if whole { json!(score as i64) } else { json!(score) };
            fields.insert("match_score".to_owned(), score);
        }
        Value::Object(fields)
    }
}

/// What share of the characters of both texts they have in common.
fn similarity(a: &str, b: &str) -> f64 {
    let (a, b): (BTreeSet<char>, BTreeSet<char>) = (a.chars().collect(), b.chars().collect());
    if a.is_empty() || b.is_empty() {
        return 0.0;
    }
    let common = a.intersection(&b).count();
    #[expect(clippy::cast_precision_loss, reason = "counts of characters")]
    let share = common as f64 / a.union(&b).count() as f64;
    share
}

/// `GET /search`.
pub(super) async fn search(State(api): Shared, params: Params) -> Answer {
    let query = params.required("query")?;
    let (sort_by, descending) = order(&params)?;
    let paging = paging(&params)?;
    let allow_cache = params.allow_cache()?;
    let known = api.project_names(allow_cache).await?;
    let wanted = params.all("projects");
    let (projects, missing): (Vec<_>, Vec<_>) = match wanted.is_empty() {
        true => (known, Vec::new()),
        false => {
            let (found, missing): (BTreeSet<_>, BTreeSet<_>) = wanted
                .into_iter()
                .map(str::to_owned)
                .partition(|project| known.contains(project));
            (found.into_iter().collect(), missing.into_iter().collect())
        }
    };
    let mut errors = Vec::new();
    if !missing.is_empty() {
        errors.push(format!("Following projects do not exist: {}", missing.join(", ")));
    }
    if projects.is_empty() {
        if errors.is_empty() {
            errors.push("No projects found".to_owned());
        }
        let answer = json!({"query": query, "projects_searched": [], "results": [], "pagination": {}, "errors": errors});
        return Ok(Json(answer));
    }
    let only = tags_only(&params);
    let mut results = Vec::new();
    for project in &projects {
        let catalog = api.catalog(project, allow_cache).await?;
        for (kind, content) in SEARCHED {
            for item in objects::items(&catalog, content, &only)? {
                let candidate = Candidate::of(&catalog, kind, &item)?;
                if let Some(found) = candidate.matches(query) {
                    results.push(candidate.json(&found));
                }
            }
        }
    }
    objects::sort_json(&mut results, sort_by, descending);
    let pagination = objects::place(results.len(), &paging);
    Ok(Json(json!({
        "query": query,
        "projects_searched": projects,
        "results": objects::cut(results, &paging),
        "pagination": pagination,
        "errors": errors,
    })))
}

/// Of the filters of lists, only tags apply here.
fn tags_only(params: &Params) -> Params {
    let mut query = url::form_urlencoded::Serializer::new(String::new());
    for tag in params.all("tags") {
        query.append_pair("tags", tag);
    }
    Params::parse(&query.finish())
}

fn order(params: &Params) -> Result<(&'static str, bool), Failure> {
    const OPTIONS: [&str; 3] = ["match_score", "name", "type"];
    let by = params
        .get("sort_by")
        .filter(|by| !by.is_empty())
        .unwrap_or("match_score");
    let by = OPTIONS.into_iter().find(|option| *option == by).ok_or_else(|| {
        let detail =
            format!("Invalid sort_by parameter: '{by}'. Valid options are: ['match_score', 'name', 'type']");
        Failure::http(400, detail)
    })?;
    match params
        .get("sort_order")
        .filter(|order| !order.is_empty())
        .unwrap_or("desc")
    {
        "asc" => Ok((by, false)),
        "desc" => Ok((by, true)),
        other => {
            let detail =
                format!("Invalid sort_order parameter: '{other}'. Valid options are: ['asc', 'desc']");
            Err(Failure::http(400, detail))
        }
    }
}

/// Out of range is 400 here, not 422.
fn paging(params: &Params) -> Result<PaginationParams, Failure> {
    let number = |name: &str, default: i32, max: i32| {
        let Some(text) = params.get(name) else {
            return Ok(default);
        };
        let number: i32 = text
            .parse()
            .map_err(|_| Failure::malformed(format!("query parameter `{name}`: `{text}` is no number")))?;
        let wrong = |limit: &str, bound: i32| {
            let detail =
                format!("Invalid {name} parameter: '{number}'. Must be {limit} than or equal to {bound}");
            Failure::http(400, detail)
        };
        match number {
            number if number < 1 => Err(wrong("greater", 1)),
            number if number > max => Err(wrong("less", max)),
            number => Ok(number),
        }
    };
    Ok(PaginationParams {
        page: number("page", 1, i32::MAX)?,
        limit: number("limit", 50, 100)?,
    })
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn score(query: &str) -> Option<f64> {
        let candidate = Candidate {
            kind: "entity",
            name: "driver".into(),
            description: "who sits at the wheel".into(),
            tags: [("team".to_owned(), "Ops".to_owned())].into(),
            project: "p".into(),
            view: None,
        };
        candidate.matches(query).map(|found| found.score.unwrap_or(-1.0))
    }

    #[test]
    fn names_win_over_descriptions_over_tags() {
        assert_eq!(score("RIVE"), Some(100.0));
        assert_eq!(score("wheel"), Some(80.0));
        assert_eq!(score("team=ops"), Some(60.0));
        assert_eq!(score(""), Some(-1.0));
        assert_eq!(score("zzz"), None);
    }

    #[test]
    fn similar_names_match_by_share_of_characters() {
        // d r i v e against d r i v e s: five of six.
        let found = score("drives").unwrap();
        assert!((found - 500.0 / 6.0).abs() < 1e-9, "{found}");
        assert_eq!(score("dxyzw"), None);
    }
}
