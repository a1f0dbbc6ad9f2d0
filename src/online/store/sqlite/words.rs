//! Texts: searched for whole words, and ranked as FTS5 ranks them (BM25).

use sqlx::{AssertSqlSafe, Row as _, SqliteConnection};

use super::search::{Place, each};

/// Words that a text should hold, all of them.
pub(super) struct Words {
    pub(super) features: Vec<String>,
    /// Sorted, each once.
    pub(super) words: Vec<String>,
}

/// What BM25 has to know of all texts.
#[derive(Default)]
struct Corpus {
    texts: f64,
    length: f64,
    /// In how many texts each word is.
    holding: Vec<f64>,
}

impl Words {
    /// Goes through the texts twice: once to know them all, once to rank those that match.
    pub(super) async fn rank(
        &self,
        connection: &mut SqliteConnection,
        place: &Place<'_>,
        mut found: impl FnMut(&[u8], f64),
    ) -> Result<(), sqlx::Error> {
        let features: Vec<String> = self
            .features
            .iter()
            .map(|name| format!("'{}'", name.replace('\'', "''")))
            .collect();
        let sql = format!(
            "SELECT entity_key, value_text FROM {} WHERE {} AND feature_name IN ({}) AND value_text IS NOT NULL",
            place.table,
            place.condition,
            features.join(", ")
        );
        let bound = || {
            let query = sqlx::query(AssertSqlSafe(sql.clone())).persistent(false);
            place
                .parameters
                .iter()
                .fold(query, |query, text| query.bind(text))
        };
        let mut corpus = Corpus {
            holding: vec![0.0; self.words.len()],
            ..Corpus::default()
        };
        each(bound().fetch(&mut *connection), |row| {
            let (length, counts) = self.counts(row.try_get_unchecked(1)?);
            corpus.texts += 1.0;
            corpus.length += length;
            for (holding, count) in corpus.holding.iter_mut().zip(counts) {
                *holding += f64::from(u8::from(count > 0.0));
            }
            Ok(true)
        })
        .await?;
        each(bound().fetch(&mut *connection), |row| {
            let (length, counts) = self.counts(row.try_get_unchecked(1)?);
            if !counts.is_empty() && counts.iter().all(|count| *count > 0.0) {
                found(row.try_get_unchecked(0)?, corpus.rank(length, &counts));
            }
            Ok(true)
        })
        .await
    }

    /// How long a text is in words, and how often each of ours is in it.
    fn counts(&self, text: &str) -> (f64, Vec<f64>) {
        let mut counts = vec![0.0; self.words.len()];
        let mut length = 0.0;
        for token in tokens(text) {
            length += 1.0;
            if let Ok(place) = self.words.binary_search(&token) {
                counts[place] += 1.0;
            }
        }
        (length, counts)
    }
}

impl Corpus {
    /// BM25 with FTS5's constants; greater is better, and no match is worth nothing.
    fn rank(&self, length: f64, counts: &[f64]) -> f64 {
        let shortness = 1.2 * (0.25 + 0.75 * length * self.texts / self.length);
        let of_word = |(count, holding): (&f64, &f64)| {
            let rarity = ((self.texts - holding + 0.5) / (holding + 0.5)).ln().max(1e-6);
            rarity * count * 2.2 / (count + shortness)
        };
        counts.iter().zip(&self.holding).map(of_word).sum()
    }
}

/// Words in lower case, without what is between them.
pub(super) fn tokens(text: &str) -> impl Iterator<Item = String> {
    let parts = text.split(|letter: char| !letter.is_alphanumeric());
    parts.filter(|part| !part.is_empty()).map(str::to_lowercase)
}
