//! Searching with pgvector and PostgreSQL's own text search. Conditions hold before the best are picked.

use bytes::Bytes;
use sqlx::{AssertSqlSafe, PgConnection, Row as _};

use super::{
    PostgresStore, quoted,
    read::{bytes, micros},
    write::vector_text,
};
use crate::{
    error::{Error, Result},
    model::{FeatureView, ValueType},
    online::store::{
        Found, RowBatch, Search,
        search::VectorQuery,
        sql::{
            LONG_LIMIT, is_missing_table,
            matching::{Dialect, Matching},
            vectors::Metric,
            within,
        },
    },
};

static DIALECT: Dialect = Dialect {
    parameter: |number| format!("${number}::text"),
    number: |text| {
        format!(
            "CASE {text} WHEN 'True' THEN 1 WHEN 'False' THEN 0 WHEN 'nan' THEN NULL \
             ELSE CAST({text} AS numeric) END"
        )
    },
    binary: " COLLATE \"C\"",
};

/// Parameters every search has: feature, vector, words, text features, how many, features to answer.
const PARAMETERS: usize = 6;

impl PostgresStore {
    pub(super) async fn search_rows(
        &self,
        table: &str,
        view: &FeatureView,
        search: &Search,
    ) -> Result<Found> {
        let name = quoted(table);
        let mut matching = Matching::new(view, &name, &DIALECT, PARAMETERS);
        let condition = matching.condition(search.filter.as_ref())?;
        let vector = search
            .vector
            .as_ref()
            .map(|query| self.operator(view, query))
            .transpose()?;
        let texts = match search.text {
            Some(_) => text_features(view, &search.features)?,
            None => Vec::new(),
        };
        let best = match (&vector, &search.text) {
            (Some((operator, _)), Some(_)) => hybrid(&name, operator, &condition),
            (Some((operator, _)), None) => nearest(&name, operator, &condition),
            (None, Some(_)) => matches(&name, &condition),
            (None, None) => return Err(Error::invalid("a search needs a vector or a text")),
        };
        let statement = format!(
            "WITH {best} SELECT b.entity_key, b.distance, b.text_rank, c.feature_name, c.value, c.event_ts \
             FROM best b LEFT JOIN {name} c ON c.entity_key = b.entity_key AND c.feature_name = ANY($6::text[]) \
             ORDER BY b.text_rank DESC NULLS LAST, b.distance, b.entity_key"
        );
        let given = Given {
            field: search.vector.as_ref().map(|query| query.field.as_str()),
            vector: vector.map(|(_, text)| text),
            text: search.text.as_deref(),
            texts,
            top_k: i64::try_from(search.top_k).unwrap_or(i64::MAX),
            features: &search.features,
            others: &matching.parameters,
        };
        loop {
            let mut lease = self.connections.lease().await?;
            let outcome = within(LONG_LIMIT, given.run(&mut lease, &statement)).await;
            if lease.settle(&outcome) {
                continue;
            }
            return match outcome {
                Ok(found) => Ok(found.shaped(search)),
                Err(error) if is_missing_table(&error) => Ok(Found::default().shaped(search)),
                Err(error) => Err(self.not_searched(view, error)),
            };
        }
    }

    /// The operator of the metric, and the vector as pgvector reads it.
    fn operator(&self, view: &FeatureView, query: &VectorQuery) -> Result<(&'static str, String)> {
        if !self.vector_enabled {
            return Err(Error::invalid("vector search is off in this online store")
                .hint("set `online_store.vector_enabled: true` and run `thali apply`"));
        }
        if view.feature(&query.field).is_none() {
            return Err(Error::invalid(format!(
                "`{}` is no feature of view `{}`",
                query.field, view.name
            )));
        }
        let metric = query
            .metric
            .as_deref()
            .map_or(Ok(self.similarity), Metric::named)?;
        let operator = match metric {
            Metric::Cosine => "<=>",
            Metric::L1 => "<+>",
            Metric::L2 => "<->",
            Metric::InnerProduct => "<#>",
        };
        let vector = vector_text(&query.vector)
            .ok_or_else(|| Error::invalid("the vector to search for is empty, too long or not finite"))?;
        Ok((operator, vector))
    }

    fn not_searched(&self, view: &FeatureView, error: sqlx::Error) -> Error {
        let told = match &error {
            sqlx::Error::Database(inner) => Some((
                inner.code().unwrap_or_default().into_owned(),
                inner.message().to_owned(),
            )),
            _ => None,
        };
        match told {
            Some((code, message)) if code.starts_with("22") => {
                Error::invalid(format!("the search does not fit view `{}`: {message}", view.name))
            }
            // No such operator, no such type: the table was made before pgvector was there.
            Some((code, _)) if ["42883", "42704"].contains(&code.as_str()) => {
                Error::unsupported(format!("view `{}` holds no vectors yet", view.name))
                    .hint("run `thali apply`, then materialize the view again")
                    .source_error(error)
            }
            _ => self.failed(error),
        }
    }
}

/// The features whose texts are searched: those asked for, or all of the view's.
fn text_features(view: &FeatureView, asked: &[String]) -> Result<Vec<String>> {
    let of_view = view
        .features
        .iter()
        .filter(|field| field.value_type == ValueType::String);
    let of_view: Vec<String> = of_view.map(|field| field.name.clone()).collect();
    let among: Vec<String> = of_view
        .iter()
        .filter(|name| asked.contains(name))
        .cloned()
        .collect();
    match (among.is_empty(), of_view.is_empty()) {
        (false, _) => Ok(among),
        (true, false) => Ok(of_view),
        (true, true) => Err(Error::invalid(format!(
            "view `{}` has no texts to search in",
            view.name
        ))),
    }
}

const WORDS: &str = "plainto_tsquery('english', $3::text)";
const TEXT: &str = "to_tsvector('english', value_text)";

fn nearest(table: &str, operator: &str, condition: &str) -> String {
    format!(
        "best AS (SELECT entity_key, (vector_value {operator} $2::text::vector)::float8 AS distance, \
         NULL::float8 AS text_rank FROM {table} \
         WHERE feature_name = $1::text AND vector_value IS NOT NULL AND {condition} \
         ORDER BY distance, entity_key LIMIT $5::int8)"
    )
}

fn matches(table: &str, condition: &str) -> String {
    format!(
        "best AS (SELECT entity_key, NULL::float8 AS distance, max(ts_rank({TEXT}, {WORDS}))::float8 AS text_rank \
         FROM {table} WHERE feature_name = ANY($4::text[]) AND {TEXT} @@ {WORDS} AND {condition} \
         GROUP BY entity_key ORDER BY text_rank DESC, entity_key LIMIT $5::int8)"
    )
}

/// As Feast: the nearest and the best matches together, each then measured both ways; texts count first.
fn hybrid(table: &str, operator: &str, condition: &str) -> String {
    let near = nearest(table, operator, condition).replacen("best AS", "near AS", 1);
    let matching = matches(table, condition).replacen("best AS", "matching AS", 1);
    format!(
        "{near}, {matching}, either AS (SELECT entity_key FROM near UNION SELECT entity_key FROM matching), \
         best AS (SELECT e.entity_key, \
         (SELECT (t.vector_value {operator} $2::text::vector)::float8 FROM {table} t \
          WHERE t.entity_key = e.entity_key AND t.feature_name = $1::text) AS distance, \
         coalesce((SELECT max(ts_rank(to_tsvector('english', t.value_text), {WORDS}))::float8 FROM {table} t \
          WHERE t.entity_key = e.entity_key AND t.feature_name = ANY($4::text[])), 0) AS text_rank \
         FROM either e ORDER BY text_rank DESC, distance, entity_key LIMIT $5::int8)"
    )
}

/// The parameters of a search.
struct Given<'a> {
    field: Option<&'a str>,
    vector: Option<String>,
    text: Option<&'a str>,
    texts: Vec<String>,
    top_k: i64,
    features: &'a [String],
    others: &'a [String],
}

impl Given<'_> {
    async fn run(&self, connection: &mut PgConnection, statement: &str) -> Result<Found, sqlx::Error> {
        let mut query = sqlx::query(AssertSqlSafe(statement.to_owned()))
            // Filters make too many different statements to keep them.
            .persistent(false)
            .bind(self.field)
            .bind(self.vector.as_deref())
            .bind(self.text.map(|text| text.replace('\0', " ")))
            .bind(&self.texts)
            .bind(self.top_k)
            .bind(self.features);
        for text in self.others {
            query = query.bind(text.replace('\0', ""));
        }
        let width = self.features.len();
        let mut found = Found {
            rows: RowBatch::empty(0, width),
            distances: Some(Vec::new()),
            text_ranks: Some(Vec::new()),
            ..Found::default()
        };
        for row in query.fetch_all(connection).await? {
            let key = bytes(&row, 0)?.unwrap_or_default();
            if found.keys.last().is_none_or(|last| last != key) {
                found.keys.push(Bytes::copy_from_slice(key));
                found.rows.push_row();
                let number = |column| row.try_get::<Option<f64>, _>(column);
                found
                    .distances
                    .get_or_insert_default()
                    .push(number(1)?.unwrap_or(f64::NAN));
                found
                    .text_ranks
                    .get_or_insert_default()
                    .push(number(2)?.unwrap_or_default());
            }
            let Some(feature) = bytes(&row, 3)? else { continue };
            let place = found.keys.len() - 1;
            let time = &mut found.rows.event_times[place];
            *time = (*time).max(micros(&row, 5)?);
            for (column, asked) in self.features.iter().enumerate() {
                if asked.as_bytes() == feature {
                    let value = bytes(&row, 4)?.unwrap_or_default();
                    found.rows.put(place, column, value);
                }
            }
        }
        Ok(found)
    }
}

impl Found {
    /// Without the measures nobody asked for.
    fn shaped(mut self, search: &Search) -> Self {
        self.rows.width = search.features.len();
        match search.vector {
            Some(_) => drop(self.distances.get_or_insert_default()),
            None => self.distances = None,
        }
        match search.text {
            Some(_) => drop(self.text_ranks.get_or_insert_default()),
            None => self.text_ranks = None,
        }
        self
    }
}
