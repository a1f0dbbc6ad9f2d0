//! Tables as a whole: made, tagged, dropped, counted and emptied.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use bytes::Bytes;
use serde::Deserialize;
use serde_json::{Map, Value as Json, json};

use super::{
    DynamoStore,
    client::{Failure, backoff},
    item::ENTITY_KEY,
};
use crate::{
    error::{Error, Kind, Result},
    model::FeatureView,
};

/// How long a table may take to be made or to be gone.
const PATIENCE: Duration = Duration::from_secs(120);

/// The most items DynamoDB deletes in one call.
const DELETES_PER_CALL: usize = 25;

/// The most tags a table can have.
const MOST_TAGS: usize = 50;

#[derive(Deserialize)]
struct Described {
    #[serde(rename = "Table")]
    table: Description,
}

#[derive(Deserialize)]
struct Description {
    #[serde(rename = "TableStatus", default)]
    status: String,
    #[serde(rename = "TableArn", default)]
    arn: String,
}

#[derive(Deserialize)]
struct Scanned {
    #[serde(rename = "Count", default)]
    count: u64,
    #[serde(rename = "Items", default)]
    items: Vec<Json>,
    #[serde(rename = "LastEvaluatedKey", default)]
    next: Option<Json>,
}

#[derive(Deserialize)]
struct Tags {
    #[serde(rename = "Tags", default)]
    tags: Vec<Tag>,
    #[serde(rename = "NextToken", default)]
    next: Option<String>,
}

#[derive(Deserialize)]
struct Tag {
    #[serde(rename = "Key")]
    key: String,
    #[serde(rename = "Value", default)]
    value: String,
}

#[derive(Deserialize)]
struct Unprocessed {
    #[serde(rename = "UnprocessedItems", default)]
    items: Map<String, Json>,
}

impl DynamoStore {
    /// The table with its tags, ready to be used.
    pub(super) async fn create(&self, name: &str, view: &FeatureView) -> Result<()> {
        let tags = self.tags_of(view);
        let told = |failure| self.client.told(failure, "preparing", name);
        let existed = match self.describe(name).await {
            Ok(_) => true,
            Err(failure) if failure.is_missing() => {
                let mut request = json!({
                    "TableName": name,
                    "KeySchema": [{"AttributeName": "entity_id", "KeyType": "HASH"}],
                    "AttributeDefinitions": [{"AttributeName": "entity_id", "AttributeType": "S"}],
                    "BillingMode": "PAY_PER_REQUEST",
                });
                // Even an empty list would need the right to tag.
                if !tags.is_empty() {
                    request["Tags"] = as_json(&tags);
                }
                match self.client.call("CreateTable", &request).await {
                    Ok(_) => false,
                    // Somebody else is faster.
                    Err(failure) if failure.is("ResourceInUseException") => true,
                    Err(failure) => return Err(told(failure)),
                }
            }
            Err(failure) => return Err(told(failure)),
        };
        let begin = Instant::now();
        let mut backoff = backoff();
        let arn = loop {
            match self.describe(name).await {
                Ok(table) if matches!(table.status.as_str(), "ACTIVE" | "UPDATING") => break table.arn,
                // What was just made may not be seen everywhere yet.
                Ok(_) => {}
                Err(failure) if failure.is_missing() => {}
                Err(failure) => return Err(told(failure)),
            }
            if begin.elapsed() > PATIENCE {
                return Err(late(name, "was not ready"));
            }
            backoff.pause().await;
        };
        if existed {
            match self.update_tags(&arn, &tags).await {
                Err(failure) if failure.is("AccessDeniedException") => {
                    tracing::warn!(
                        table = name,
                        "this role may not change the tags of the DynamoDB table"
                    );
                }
                outcome => outcome.map_err(told)?,
            }
        }
        Ok(())
    }

    /// Drops the table, if it is there, and waits until it is gone.
    pub(super) async fn drop_table(&self, name: &str) -> Result<()> {
        let told = |failure| self.client.told(failure, "dropping", name);
        let begin = Instant::now();
        let mut backoff = backoff();
        let mut asked = false;
        loop {
            match self.describe(name).await {
                Err(failure) if failure.is_missing() => return Ok(()),
                Err(failure) => return Err(told(failure)),
                Ok(table) if table.status == "DELETING" => asked = true,
                Ok(_) => {}
            }
            if !asked {
                match self.client.call("DeleteTable", &json!({"TableName": name})).await {
                    Ok(_) => asked = true,
                    Err(failure) if failure.is_missing() => return Ok(()),
                    // It is still being made.
                    Err(failure) if failure.is("ResourceInUseException") => {}
                    Err(failure) if failure.is("AccessDeniedException") => {
                        tracing::warn!(
                            table = name,
                            "this role may not drop the DynamoDB table, which stays"
                        );
                        return Ok(());
                    }
                    Err(failure) => return Err(told(failure)),
                }
            }
            if begin.elapsed() > PATIENCE {
                return Err(late(name, "was not gone"));
            }
            backoff.pause().await;
        }
    }

    /// Counts by reading the whole table: DynamoDB's own number is hours old.
    pub(super) async fn count_items(&self, name: &str) -> Result<u64> {
        let mut count = 0;
        let mut request = json!({"TableName": name, "Select": "COUNT", "ConsistentRead": true});
        while let Some(page) = self.scan(name, "counting", &mut request).await? {
            count += page.count;
        }
        Ok(count)
    }

    /// The entity keys of one page of a scan.
    pub(super) async fn list_keys(
        &self,
        name: &str,
        page: Option<Bytes>,
    ) -> Result<(Vec<Bytes>, Option<Bytes>)> {
        let mut request = json!({
            "TableName": name,
            "ProjectionExpression": ENTITY_KEY,
            "ConsistentRead": true,
        });
        if let Some(page) = page {
            request["ExclusiveStartKey"] = serde_json::from_slice(&page)
                .map_err(|error| Error::internal(format!("no page of DynamoDB begins there: {error}")))?;
        }
        let Some(found) = self.scan(name, "listing", &mut request).await? else {
            return Ok((Vec::new(), None));
        };
        let total = found.items.len();
        let keys: Vec<Bytes> = found.items.iter().filter_map(key_of).collect();
        if keys.len() < total {
            return Err(Error::unsupported(format!(
                "DynamoDB table `{name}` has rows written by Feast, which keeps no entity keys, so they cannot be listed"
            ))
            .hint("materialize the view with thali, which keeps them"));
        }
        let next = request
            .get("ExclusiveStartKey")
            .map(|next| next.to_string().into());
        Ok((keys, next))
    }

    /// Deletes every item.
    pub(super) async fn delete_items(&self, name: &str) -> Result<()> {
        let mut request = json!({
            "TableName": name,
            "ProjectionExpression": "entity_id",
            "ConsistentRead": true,
        });
        while let Some(page) = self.scan(name, "emptying", &mut request).await? {
            for keys in page.items.chunks(DELETES_PER_CALL) {
                let deletions: Vec<Json> = keys
                    .iter()
                    .map(|key| json!({"DeleteRequest": {"Key": key}}))
                    .collect();
                let mut items = Map::from_iter([(name.to_owned(), Json::Array(deletions))]);
                let begin = Instant::now();
                let mut backoff = backoff();
                while !items.is_empty() {
                    let request = json!({"RequestItems": items});
                    let answer: Unprocessed = self
                        .client
                        .ask("BatchWriteItem", &request)
                        .await
                        .map_err(|failure| self.client.told(failure, "emptying", name))?;
                    items = answer.items;
                    if !items.is_empty() {
                        if begin.elapsed() > PATIENCE {
                            return Err(Error::new(
                                Kind::Overloaded,
                                format!("emptying DynamoDB table `{name}`: DynamoDB leaves deletions undone"),
                            )
                            .hint("do it again: what is deleted stays deleted"));
                        }
                        backoff.pause().await;
                    }
                }
            }
        }
        Ok(())
    }

    /// The next page of a scan; none after the last, and none of a table that is not there.
    async fn scan(&self, name: &str, doing: &str, request: &mut Json) -> Result<Option<Scanned>> {
        if request.is_null() {
            return Ok(None);
        }
        match self.client.ask::<Scanned>("Scan", request).await {
            Ok(mut page) => {
                match page.next.take() {
                    Some(next) => request["ExclusiveStartKey"] = next,
                    None => *request = Json::Null,
                }
                Ok(Some(page))
            }
            Err(failure) if failure.is_missing() => Ok(None),
            Err(failure) => Err(self.client.told(failure, doing, name)),
        }
    }

    async fn describe(&self, name: &str) -> Result<Description, Failure> {
        let described: Described = self
            .client
            .ask("DescribeTable", &json!({"TableName": name}))
            .await?;
        Ok(described.table)
    }

    /// The configured tags and the view's own, which win. What cannot be a tag in AWS is left out.
    fn tags_of(&self, view: &FeatureView) -> BTreeMap<String, String> {
        let mut tags = self.tags.clone();
        let own = view
            .tags
            .iter()
            .filter(|(key, value)| !value.is_empty() || !self.tags.contains_key(*key));
        tags.extend(own.map(|(key, value)| (key.clone(), value.clone())));
        let allowed = |text: &str, longest: usize| {
            text.chars().count() <= longest
                && text
                    .chars()
                    .all(|c| c.is_alphanumeric() || c == ' ' || "_.:/=+-@".contains(c))
        };
        tags.retain(|key, value| {
            !key.is_empty() && !key.starts_with("aws:") && allowed(key, 128) && allowed(value, 256)
        });
        tags.into_iter().take(MOST_TAGS).collect()
    }

    /// Makes the tags what they should be, by the fewest changes: DynamoDB does them some time later, and not
    /// always in order.
    async fn update_tags(&self, arn: &str, wanted: &BTreeMap<String, String>) -> Result<(), Failure> {
        let mut stored = BTreeMap::new();
        let mut request = json!({"ResourceArn": arn});
        loop {
            let page: Tags = self.client.ask("ListTagsOfResource", &request).await?;
            stored.extend(page.tags.into_iter().map(|tag| (tag.key, tag.value)));
            match page.next {
                Some(next) => request["NextToken"] = json!(next),
                None => break,
            }
        }
        let gone: Vec<&String> = stored.keys().filter(|key| !wanted.contains_key(*key)).collect();
        if !gone.is_empty() {
            let request = json!({"ResourceArn": arn, "TagKeys": gone});
            self.client.call("UntagResource", &request).await?;
        }
        let mut new = wanted.clone();
        new.retain(|key, value| stored.get(key) != Some(value));
        if !new.is_empty() {
            let request = json!({"ResourceArn": arn, "Tags": as_json(&new)});
            self.client.call("TagResource", &request).await?;
        }
        Ok(())
    }
}

/// The serialized entity key of an item, if it has one.
fn key_of(item: &Json) -> Option<Bytes> {
    let text = item.get(ENTITY_KEY)?.get("B")?.as_str()?;
    BASE64_STANDARD.decode(text).ok().map(Bytes::from)
}

fn as_json(tags: &BTreeMap<String, String>) -> Json {
    tags.iter()
        .map(|(key, value)| json!({"Key": key, "Value": value}))
        .collect()
}

fn late(name: &str, what: &str) -> Error {
    Error::unavailable(format!(
        "DynamoDB table `{name}` {what} within {} s",
        PATIENCE.as_secs()
    ))
    .hint("run it again: what is done stays done")
}
