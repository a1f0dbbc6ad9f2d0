//! Where a file source lies: the path its URI means, and whether that is one file, a folder or a pattern.

use std::path::{Path, PathBuf};

use crate::{
    error::{Error, Result},
    proto::feast::core::{DataSource, data_source, file_format},
};

/// How the bytes of a source are to be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Format {
    Parquet,
    Csv,
}

/// What a path stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Shape {
    File,
    /// Every file of the format below it.
    Folder,
    /// Every file that matches.
    Pattern,
    /// Nothing is there (yet).
    Absent,
}

/// A file source on local disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Location {
    pub(super) path: PathBuf,
    pub(super) format: Format,
    pub(super) shape: Shape,
}

impl Location {
    /// Where `source` lies, its relative path starting at `repo`.
    pub(super) fn of(source: &DataSource, repo: &Path) -> Result<Self> {
        let path = repo.join(local_path(source)?);
        let text = path.to_string_lossy();
        let shape = match std::fs::metadata(&path) {
            Ok(metadata) if metadata.is_dir() => Shape::Folder,
            Ok(_) => Shape::File,
            Err(_) if text.contains(['*', '?', '[']) => Shape::Pattern,
            Err(_) => Shape::Absent,
        };
        let is_csv = path
            .extension()
            .is_some_and(|extension| extension.eq_ignore_ascii_case("csv"))
            || shape == Shape::Folder && folder_holds_csv(&path);
        let format = if is_csv { Format::Csv } else { Format::Parquet };
        Ok(Self { path, format, shape })
    }

    /// The extension of the files of a folder.
    pub(super) fn extension(&self) -> &'static str {
        match self.format {
            Format::Parquet => ".parquet",
            Format::Csv => ".csv",
        }
    }
}

/// A folder without a Parquet file but with a CSV file is one of CSV files.
fn folder_holds_csv(path: &Path) -> bool {
    let Ok(entries) = std::fs::read_dir(path) else {
        return false;
    };
    let names: Vec<_> = entries
        .filter_map(|entry| entry.ok()?.path().extension().map(std::ffi::OsStr::to_owned))
        .collect();
    names.iter().any(|name| name == "csv") && !names.iter().any(|name| name == "parquet")
}

/// The URI of a file source.
///
/// # Errors
/// `Unsupported` naming the type when it is another kind of source.
pub(super) fn uri(source: &DataSource) -> Result<&str> {
    let kind = match &source.options {
        Some(data_source::Options::FileOptions(options)) => {
            let format = options
                .file_format
                .as_ref()
                .and_then(|format| format.format.as_ref());
            // The other variant, Delta, is deprecated in the contract but still written.
            if !matches!(format, None | Some(file_format::Format::ParquetFormat(_))) {
                return Err(
                    Error::unsupported(format!("data source `{}` is a Delta table", source.name))
                        .hint("thali reads Parquet and CSV files"),
                );
            }
            return Ok(&options.uri);
        }
        Some(data_source::Options::BigqueryOptions(_)) => "BigQuery",
        Some(data_source::Options::KafkaOptions(_)) => "Kafka",
        Some(data_source::Options::KinesisOptions(_)) => "Kinesis",
        Some(data_source::Options::RedshiftOptions(_)) => "Redshift",
        Some(data_source::Options::RequestDataOptions(_)) => "request",
        Some(data_source::Options::CustomOptions(_)) => custom_kind(&source.data_source_class_type),
        Some(data_source::Options::SnowflakeOptions(_)) => "Snowflake",
        Some(data_source::Options::PushOptions(_)) => "push",
        Some(data_source::Options::SparkOptions(_)) => "Spark",
        Some(data_source::Options::TrinoOptions(_)) => "Trino",
        Some(data_source::Options::AthenaOptions(_)) => "Athena",
        None => "untyped",
    };
    Err(Error::unsupported(format!(
        "data source `{}` is a {kind} source, which has no files to read",
        source.name
    ))
    .hint("use a file source (Parquet or CSV)"))
}

/// The last part of a source's Python class path says more than "custom".
fn custom_kind(class: &str) -> &str {
    class
        .rsplit('.')
        .next()
        .filter(|name| !name.is_empty())
        .unwrap_or("custom")
}

fn local_path(source: &DataSource) -> Result<PathBuf> {
    let uri = uri(source)?;
    if uri.is_empty() {
        return Err(Error::invalid(format!(
            "data source `{}` has no path",
            source.name
        )));
    }
    match uri.split_once("://") {
        None => Ok(PathBuf::from(uri)),
        Some(("file", _)) => url::Url::parse(uri)
            .ok()
            .and_then(|url| url.to_file_path().ok())
            .ok_or_else(|| {
                Error::invalid(format!(
                    "data source `{}`: `{uri}` is no path on this machine",
                    source.name
                ))
            }),
        Some((scheme, _)) => Err(Error::unsupported(format!(
            "data source `{}` lies at `{uri}`: thali cannot read `{scheme}` locations",
            source.name
        ))
        .hint("use files on local disk")),
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use crate::{error::Kind, proto::feast::core::data_source::FileOptions};

    fn source(uri: &str) -> DataSource {
        let options = FileOptions {
            uri: uri.to_owned(),
            ..FileOptions::default()
        };
        DataSource {
            name: "trips".to_owned(),
            options: Some(data_source::Options::FileOptions(options)),
            ..DataSource::default()
        }
    }

    #[test]
    fn paths_are_relative_to_the_repository() {
        let repo = Path::new("/repo");
        let path = |uri: &str| Location::of(&source(uri), repo).unwrap().path;
        assert_eq!(path("data/a.parquet"), Path::new("/repo/data/a.parquet"));
        assert_eq!(path("/data/a.parquet"), Path::new("/data/a.parquet"));
        assert_eq!(path("file:///data/a%20b.parquet"), Path::new("/data/a b.parquet"));
        assert_eq!(
            Location::of(&source("x/*.csv"), repo).unwrap().shape,
            Shape::Pattern
        );
        assert_eq!(
            Location::of(&source("x/A.CSV"), repo).unwrap().format,
            Format::Csv
        );
    }

    #[test]
    fn what_is_no_local_file_is_refused_by_name() {
        let error = Location::of(&source("s3://bucket/a.parquet"), Path::new("/")).unwrap_err();
        assert_eq!(error.kind(), Kind::Unsupported);
        assert!(
            error.message().contains("`trips`") && error.message().contains("`s3`"),
            "{error}"
        );
        let mut bigquery = source("");
        bigquery.options = Some(data_source::Options::BigqueryOptions(
            data_source::BigQueryOptions::default(),
        ));
        assert!(uri(&bigquery).unwrap_err().message().contains("BigQuery"));
        assert_eq!(
            Location::of(&source(""), Path::new("/")).unwrap_err().kind(),
            Kind::InvalidArgument
        );
    }
}
