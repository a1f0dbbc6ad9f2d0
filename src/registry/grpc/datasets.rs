//! The calls about datasets: making one, watching that, and reading the first rows.

use bytes::Bytes;
use prost::Message;

use super::Server;
use crate::{
    context::Context,
    error::{Error, Result},
    model::ObjectKind,
    proto::feast::registry::{
        CreateDatasetFromRetrievalRequest, CreateDatasetFromRetrievalResponse, GetDatasetDataRequest,
        GetDatasetDataResponse, GetDatasetJobStatusRequest, ListDatasetJobsRequest, ListDatasetJobsResponse,
        TabularRow,
    },
    registry::datasets,
};

/// How many rows are shown unless the request says so, as in Feast.
const ROWS: usize = 10;
/// How many are shown at most.
const MOST_ROWS: usize = 10_000;

impl Server {
    fn context(&self) -> Result<&Context> {
        self.context
            .as_ref()
            .ok_or_else(|| Error::unsupported("this server has no offline store"))
    }

    pub(super) async fn create_dataset(&self, request: Bytes) -> Result<Bytes> {
        let request = CreateDatasetFromRetrievalRequest::decode(request)?;
        let job = datasets::create(self.context()?, request).await?;
        let answer = CreateDatasetFromRetrievalResponse {
            job_id: job.id,
            status: job.status.name().to_owned(),
        };
        Ok(answer.encode_to_vec().into())
    }

    pub(super) fn get_dataset_job(&self, request: Bytes) -> Result<Bytes> {
        let request = GetDatasetJobStatusRequest::decode(request)?;
        let job = self.context()?.datasets.get(&request.job_id)?;
        Ok(job.report().encode_to_vec().into())
    }

    pub(super) fn list_dataset_jobs(&self, request: Bytes) -> Result<Bytes> {
        let request = ListDatasetJobsRequest::decode(request)?;
        let jobs = self
            .context()?
            .datasets
            .list(&request.project, &request.status_filter);
        let jobs = jobs.iter().map(datasets::Job::report).collect();
        Ok(ListDatasetJobsResponse { jobs }.encode_to_vec().into())
    }

    pub(super) async fn get_dataset_data(&self, request: Bytes) -> Result<Bytes> {
        let request = GetDatasetDataRequest::decode(request)?;
        let context = self.context()?;
        let project = match request.project.as_str() {
            "" => &context.config.project,
            project => project,
        };
        let catalog = self.catalog(project, false).await?;
        let dataset = catalog.require(ObjectKind::SavedDataset, &request.name)?;
        let limit = usize::try_from(request.limit).ok().filter(|limit| *limit > 0);
        let limit = limit.unwrap_or(ROWS).min(MOST_ROWS);
        let sample = datasets::sample(&context.offline, dataset, limit).await?;
        let number = |count: usize| i32::try_from(count).unwrap_or(i32::MAX);
        let row = |row: &serde_json::Map<String, serde_json::Value>| TabularRow {
            values: sample
                .columns
                .iter()
                .map(|column| row.get(column).unwrap_or_default().to_string())
                .collect(),
        };
        let answer = GetDatasetDataResponse {
            rows: sample.rows.iter().map(row).collect(),
            total_rows: number(sample.total),
            sample_size: number(sample.rows.len()),
            columns: sample.columns.clone(),
        };
        Ok(answer.encode_to_vec().into())
    }
}
