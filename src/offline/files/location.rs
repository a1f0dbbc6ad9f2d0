//! Where a file source lies: the path or object its URI means, and whether that is one file, a folder or a
//! pattern.

use std::{
    future::ready,
    path::{Path, PathBuf},
};

use datafusion::{datasource::listing::ListingTableUrl, error::DataFusionError};
use futures::TryStreamExt as _;
use object_store::{ObjectStore as _, ObjectStoreExt as _};

use super::{
    buckets::{Buckets, Object},
    delta,
};
use crate::{
    cloud::ObjectStoreKind,
    error::{Error, Result},
    proto::feast::core::{DataSource, data_source, file_format, table_format},
};

/// How the bytes of a source are to be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Format {
    Parquet,
    Csv,
}

impl Format {
    /// The extension of such files.
    pub(super) fn extension(self) -> &'static str {
        match self {
            Self::Parquet => ".parquet",
            Self::Csv => ".csv",
        }
    }

    /// Files that are called nothing in particular are Parquet.
    fn of_name(name: &str) -> Self {
        match name.rsplit_once('.') {
            Some((_, extension)) if extension.eq_ignore_ascii_case("csv") => Self::Csv,
            _ => Self::Parquet,
        }
    }

    /// A folder without a Parquet file but with a CSV file is one of CSV files.
    fn of_folder(names: &[&str]) -> Self {
        let has = |extension: &str| names.iter().any(|name| name.ends_with(extension));
        if has(Self::Csv.extension()) && !has(Self::Parquet.extension()) {
            Self::Csv
        } else {
            Self::Parquet
        }
    }
}

/// What a path stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Shape {
    File,
    /// Every file of the format below it.
    Folder,
    /// Every file that matches.
    Pattern,
    /// The files that a Delta table's log says.
    Delta,
    /// Nothing is there (yet).
    Absent,
}

/// Where something lies.
#[derive(Debug, Clone)]
pub(super) enum Place {
    Disk(PathBuf),
    Cloud(Object),
}

/// A file source.
#[derive(Debug, Clone)]
pub(super) struct Location {
    pub(super) place: Place,
    /// The path or URL, for messages.
    pub(super) name: String,
    pub(super) format: Format,
    pub(super) shape: Shape,
    /// Bytes, of a file.
    pub(super) size: u64,
    /// The content of an object; another one has another tag.
    pub(super) e_tag: Option<String>,
}

const PATTERN: [char; 3] = ['*', '?', '['];
const NAMES: glob::MatchOptions = glob::MatchOptions {
    case_sensitive: true,
    require_literal_separator: true,
    require_literal_leading_dot: true,
};

fn external(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> DataFusionError {
    DataFusionError::External(error.into())
}

impl Location {
    /// Where `source` lies, its relative path starting at `repo`.
    ///
    /// # Errors
    /// `Unsupported` for other kinds of source, what the object store says when it cannot be asked.
    pub(super) async fn of(source: &DataSource, repo: &Path, buckets: &Buckets) -> Result<Self> {
        let options = options(source)?;
        let is_delta = is_delta(options);
        let uri = options.uri.as_str();
        if uri.is_empty() {
            return Err(Error::invalid(format!(
                "data source `{}` has no path",
                source.name
            )));
        }
        let found = match ObjectStoreKind::of(uri) {
            Some(kind) => {
                let object = buckets.object(kind, uri, &options.s3_endpoint_override).await;
                in_cloud(object?, uri, is_delta).await
            }
            None => on_disk(repo.join(local_path(source, uri)?), is_delta),
        };
        found.map_err(|error| error.context(format!("data source `{}`: `{uri}`", source.name)))
    }

    /// The files that a pattern is for. `*`, `?` and `[…]` stand for parts of a name, `**` for any folders, as where
    /// Feast's stores (by DuckDB and fsspec) read them; the query engine's own patterns reach into folders below and
    /// know none that are called `key=value`.
    pub(super) async fn matching(&self) -> Result<Vec<ListingTableUrl>, DataFusionError> {
        let extension = self.format.extension();
        match &self.place {
            Place::Disk(path) => {
                let found = glob::glob_with(&path.display().to_string(), NAMES).map_err(external)?;
                let mut files = Vec::new();
                for path in found {
                    let path = path.map_err(|error| DataFusionError::IoError(error.into()))?;
                    if path.is_file() && path.to_string_lossy().ends_with(extension) {
                        let url = url::Url::from_file_path(&path).map_err(|()| {
                            external(format!("`{}` cannot be written as a URL", path.display()))
                        })?;
                        files.push(ListingTableUrl::try_new(url, None)?);
                    }
                }
                Ok(files)
            }
            Place::Cloud(object) => {
                let pattern = glob::Pattern::new(object.key.as_ref()).map_err(external)?;
                let parts = object.key.parts().map(|part| part.as_ref().to_owned());
                let fixed: object_store::path::Path =
                    parts.take_while(|part| !part.contains(PATTERN)).collect();
                let mut keys: Vec<object_store::path::Path> = object
                    .opened
                    .bucket
                    .list(Some(&fixed))
                    .map_ok(|found| found.location)
                    .try_filter(|key| {
                        let key = key.as_ref();
                        ready(key.ends_with(extension) && pattern.matches_with(key, NAMES))
                    })
                    .try_collect()
                    .await?;
                keys.sort();
                let url = |key: &object_store::path::Path| {
                    let parts: Vec<&str> = key.as_ref().split('/').collect();
                    ListingTableUrl::try_new(object.url(&parts, false)?, None)
                };
                keys.iter().map(url).collect()
            }
        }
    }

    /// What the query engine is to list, unless it is a pattern.
    pub(super) fn listing(&self) -> Result<ListingTableUrl, DataFusionError> {
        let is_folder = matches!(self.shape, Shape::Folder | Shape::Delta);
        let separator = if is_folder { "/" } else { "" };
        match &self.place {
            Place::Disk(path) => ListingTableUrl::parse(format!("{}{separator}", path.display())),
            Place::Cloud(object) => {
                let parts: Vec<&str> = object.key.as_ref().split('/').collect();
                ListingTableUrl::try_new(object.url(&parts, is_folder)?, None)
            }
        }
    }
}

/// The files of a table that somebody keeps a log of are not all of it, and not all in it.
fn iceberg() -> Error {
    Error::unsupported(
        "it is an Iceberg table, and which of its files count is only in its log, which thali does not read",
    )
    .hint("write what the table holds to a folder of Parquet files, and name that")
}

const ICEBERG_LOG: &str = "metadata";
const ICEBERG_METADATA: &str = ".metadata.json";

fn on_disk(path: PathBuf, is_delta: bool) -> Result<Location> {
    let name = path.display().to_string();
    let (mut shape, size) = match std::fs::metadata(&path) {
        _ if is_delta => (Shape::Delta, 0),
        Ok(metadata) if metadata.is_dir() => (Shape::Folder, 0),
        Ok(metadata) => (Shape::File, metadata.len()),
        Err(_) if name.contains(PATTERN) => (Shape::Pattern, 0),
        Err(_) => (Shape::Absent, 0),
    };
    let inside = |path: &Path| -> Vec<String> {
        let entries = std::fs::read_dir(path).into_iter().flatten();
        entries
            .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
            .collect()
    };
    let format = if shape == Shape::Folder {
        let names = inside(&path);
        if names.iter().any(|name| name == delta::FOLDER) {
            shape = Shape::Delta;
        }
        let log = inside(&path.join(ICEBERG_LOG));
        if log.iter().any(|name| name.ends_with(ICEBERG_METADATA)) {
            return Err(iceberg());
        }
        Format::of_folder(&names.iter().map(String::as_str).collect::<Vec<_>>())
    } else {
        Format::of_name(&name)
    };
    Ok(Location {
        place: Place::Disk(path),
        name,
        format,
        shape,
        size,
        e_tag: None,
    })
}

async fn in_cloud(object: Object, uri: &str, is_delta: bool) -> Result<Location> {
    let (mut shape, mut format) = (Shape::Absent, Format::of_name(uri));
    let (mut size, mut e_tag) = (0, None);
    let is_folder = uri.ends_with('/') || object.key.as_ref().is_empty();
    let found = if is_folder || is_delta {
        None
    } else {
        match object.opened.bucket.head(&object.key).await {
            Ok(found) => Some(found),
            Err(object_store::Error::NotFound { .. }) => None,
            Err(error) => return Err(error.into()),
        }
    };
    if let Some(found) = found {
        (shape, size, e_tag) = (Shape::File, found.size, found.e_tag);
    } else if is_delta {
        shape = Shape::Delta;
    } else if !is_folder && uri.contains(PATTERN) {
        shape = Shape::Pattern;
    } else {
        let bucket = &object.opened.bucket;
        let folder = (!object.key.as_ref().is_empty()).then_some(&object.key);
        let inside = bucket.list_with_delimiter(folder).await?;
        let has = |name| {
            let mut folders = inside.common_prefixes.iter();
            folders.any(|folder| folder.filename() == Some(name))
        };
        let is_delta = has(delta::FOLDER);
        if has(ICEBERG_LOG) {
            let log = bucket
                .list_with_delimiter(Some(&object.key.clone().join(ICEBERG_LOG)))
                .await?;
            let mut names = log.objects.iter().filter_map(|object| object.location.filename());
            if names.any(|name| name.ends_with(ICEBERG_METADATA)) {
                return Err(iceberg());
            }
        }
        if !inside.objects.is_empty() || !inside.common_prefixes.is_empty() {
            shape = if is_delta { Shape::Delta } else { Shape::Folder };
            let names: Vec<_> = inside
                .objects
                .iter()
                .map(|object| object.location.as_ref())
                .collect();
            format = Format::of_folder(&names);
        }
    }
    Ok(Location {
        place: Place::Cloud(object),
        name: uri.to_owned(),
        format,
        shape,
        size,
        e_tag,
    })
}

/// What is said of a file source.
///
/// # Errors
/// `Unsupported` naming the type when it is another kind of source.
pub(super) fn options(source: &DataSource) -> Result<&data_source::FileOptions> {
    let kind = match &source.options {
        Some(data_source::Options::FileOptions(options)) => return Ok(options),
        Some(data_source::Options::BigqueryOptions(_)) => "BigQuery",
        Some(data_source::Options::KafkaOptions(_)) => "Kafka",
        Some(data_source::Options::KinesisOptions(_)) => "Kinesis",
        Some(data_source::Options::RedshiftOptions(_)) => "Redshift",
        Some(data_source::Options::RequestDataOptions(_)) => "request",
        Some(data_source::Options::CustomOptions(_)) => custom_kind(&source.data_source_class_type),
        Some(data_source::Options::SnowflakeOptions(_)) => "Snowflake",
        Some(data_source::Options::PushOptions(_)) => "push",
        Some(data_source::Options::SparkOptions(spark)) => of_spark(spark),
        Some(data_source::Options::TrinoOptions(_)) => "Trino",
        Some(data_source::Options::AthenaOptions(_)) => "Athena",
        None => "untyped",
    };
    Err(Error::unsupported(format!(
        "data source `{}` is a {kind} source, which has no files to read",
        source.name
    ))
    .hint("use a file source (Parquet, CSV or Delta)"))
}

/// Whether the source says that it is a Delta table.
fn is_delta(options: &data_source::FileOptions) -> bool {
    let format = options
        .file_format
        .as_ref()
        .and_then(|format| format.format.as_ref());
    // The other variant, Delta, is deprecated in the contract but still written.
    !matches!(format, None | Some(file_format::Format::ParquetFormat(_)))
}

fn of_spark(source: &data_source::SparkOptions) -> &'static str {
    use table_format::Format;
    let format = source
        .table_format
        .as_ref()
        .and_then(|table| table.format.as_ref());
    match format {
        None => "Spark",
        Some(Format::IcebergFormat(_)) => "Spark (Iceberg)",
        Some(Format::DeltaFormat(_)) => "Spark (Delta)",
        Some(Format::HudiFormat(_)) => "Spark (Hudi)",
        Some(Format::LanceFormat(_)) => "Spark (Lance)",
    }
}

/// The last part of a source's Python class path says more than "custom".
fn custom_kind(class: &str) -> &str {
    class
        .rsplit('.')
        .next()
        .filter(|name| !name.is_empty())
        .unwrap_or("custom")
}

fn local_path(source: &DataSource, uri: &str) -> Result<PathBuf> {
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
        .hint("files lie on local disk, `s3://`, `gs://`, `az://` or `abfss://`")),
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::{
        cloud::Environment,
        error::Kind,
        proto::feast::core::{FileFormat, data_source::FileOptions},
    };

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

    async fn located(uri: &str) -> Result<Location> {
        let nowhere = Buckets::new(Environment::default(), Arc::default());
        Location::of(&source(uri), Path::new("/repo"), &nowhere).await
    }

    #[tokio::test]
    async fn paths_are_relative_to_the_repository() {
        for (uri, path) in [
            ("data/a.parquet", "/repo/data/a.parquet"),
            ("/data/a.parquet", "/data/a.parquet"),
            ("file:///data/a%20b.parquet", "/data/a b.parquet"),
        ] {
            assert_eq!(located(uri).await.unwrap().name, path);
        }
        assert_eq!(located("x/*.csv").await.unwrap().shape, Shape::Pattern);
        assert_eq!(located("x/A.CSV").await.unwrap().format, Format::Csv);
    }

    #[tokio::test]
    async fn a_pattern_is_for_files_of_its_folders_only() {
        let folder = tempfile::tempdir().unwrap();
        for name in [
            "a.parquet",
            "b.parquet",
            "b.csv",
            ".c.parquet",
            "below/a.parquet",
            "zone=1/a.parquet",
            "zone=1/x y/[a].parquet",
        ] {
            let file = folder.path().join(name);
            std::fs::create_dir_all(file.parent().unwrap()).unwrap();
            std::fs::write(file, "").unwrap();
        }
        for (pattern, names) in [
            ("*.parquet", vec!["a.parquet", "b.parquet"]),
            ("[bc].csv", vec!["b.csv"]),
            ("*/*.parquet", vec!["below/a.parquet", "zone=1/a.parquet"]),
            ("zone=*/a.parquet", vec!["zone=1/a.parquet"]),
            ("zone=2/*", vec![]),
            ("zone=1/*/*", vec!["zone=1/x y/[a].parquet"]),
            (
                "**/a.parquet",
                vec!["a.parquet", "below/a.parquet", "zone=1/a.parquet"],
            ),
        ] {
            let path = folder.path().join(pattern);
            let found = located(path.to_str().unwrap())
                .await
                .unwrap()
                .matching()
                .await
                .unwrap();
            let key =
                |name: &&str| object_store::path::Path::from_absolute_path(folder.path().join(name)).unwrap();
            let found: Vec<_> = found.iter().map(|url| url.prefix().clone()).collect();
            assert_eq!(found, names.iter().map(key).collect::<Vec<_>>(), "{pattern}");
        }
    }

    #[tokio::test]
    async fn tables_with_a_log_are_no_folders_of_files() {
        let folder = tempfile::tempdir().unwrap();
        let create = |name: &str, inside: &str| {
            let table = folder.path().join(name);
            let file = table.join(inside);
            std::fs::create_dir_all(file.parent().unwrap()).unwrap();
            std::fs::write(&file, "{}").unwrap();
            std::fs::write(table.join("x.parquet"), "").unwrap();
            table.display().to_string()
        };
        let delta = create("d", "_delta_log/00000000000000000000.json");
        assert_eq!(located(&delta).await.unwrap().shape, Shape::Delta);
        let iceberg = create("i", "metadata/00000-x.metadata.json");
        let refused = located(&iceberg).await.unwrap_err();
        assert_eq!(refused.kind(), Kind::Unsupported);
        assert!(refused.message().contains("an Iceberg table"), "{refused}");
    }

    #[tokio::test]
    async fn a_source_that_says_delta_is_one_whatever_is_there() {
        let mut delta = source("table");
        let Some(data_source::Options::FileOptions(options)) = &mut delta.options else {
            unreachable!("it is a file source");
        };
        #[expect(deprecated, reason = "the field Feast uses")]
        let format = file_format::Format::DeltaFormat(Default::default());
        options.file_format = Some(FileFormat { format: Some(format) });
        let nowhere = Buckets::new(Environment::default(), Arc::default());
        let found = Location::of(&delta, Path::new("/repo"), &nowhere).await.unwrap();
        assert_eq!(found.shape, Shape::Delta);
    }

    #[tokio::test]
    async fn what_is_no_file_is_refused_by_name() {
        let error = located("hdfs://bucket/a.parquet").await.unwrap_err();
        assert_eq!(error.kind(), Kind::Unsupported);
        assert!(
            error.message().contains("`trips`") && error.message().contains("`hdfs`"),
            "{error}"
        );
        let mut bigquery = source("");
        bigquery.options = Some(data_source::Options::BigqueryOptions(
            data_source::BigQueryOptions::default(),
        ));
        assert!(options(&bigquery).unwrap_err().message().contains("BigQuery"));
        assert_eq!(located("").await.unwrap_err().kind(), Kind::InvalidArgument);
        assert_eq!(located("s3://").await.unwrap_err().kind(), Kind::Config);
    }
}
