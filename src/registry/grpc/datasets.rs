//! The calls about data sets. Jobs that create data sets do not run here, so there are none to show.

use bytes::Bytes;
use prost::Message;

use super::Server;
use crate::{
    error::{Error, Kind, Result},
    proto::feast::registry,
};

/// The status of a job.
pub(super) fn get_job(request: Bytes) -> Result<Bytes> {
    let request = registry::GetDatasetJobStatusRequest::decode(request)?;
    Err(Error::new(
        Kind::ObjectNotFound,
        format!("Dataset job '{}' not found", request.job_id),
    ))
}

impl Server {
    pub(super) async fn get_dataset_data(&self, request: Bytes) -> Result<Bytes> {
        let request = registry::GetDatasetDataRequest::decode(request)?;
        let catalog = self.catalog(&request.project, false).await?;
        catalog.require(crate::model::ObjectKind::SavedDataset, &request.name)?;
        Err(Error::unsupported(format!(
            "rows of saved dataset `{}` cannot be read here",
            request.name
        ))
        .hint("read them with `FeatureStore.get_saved_dataset(...).to_df()` of the SDK"))
    }
}
