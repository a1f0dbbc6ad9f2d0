//! `thali init`: a folder to start from, with a few days of made-up data.

use std::{
    fs,
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
};

use arrow::{
    array::{ArrayRef, Float32Array, Int64Array, RecordBatch, TimestampMicrosecondArray},
    error::ArrowError,
};
use chrono::{DateTime, DurationRound as _, TimeDelta, Utc};
use clap::Args;
use parquet::arrow::ArrowWriter;

use super::{Name, Outcome, output};
use crate::{
    config::is_project_name,
    error::{Error, Result},
};

#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// Folder to make; its name becomes the project's
    #[arg(default_value = "feature_repo")]
    directory: PathBuf,
    /// What to put there: local (an example with data) or minimal (only the configuration)
    #[arg(short, long, default_value = LOCAL)]
    template: String,
    /// The same as `--template minimal`
    #[arg(short, long)]
    minimal: bool,
    /// Make it in this folder instead
    #[arg(long, value_name = "DIR")]
    repo_path: Option<PathBuf>,
}

const LOCAL: &str = "local";
const MINIMAL: &str = "minimal";

const DEFINITIONS: &str = include_str!("init/definitions.yaml");
const FEATURE_STORE: &str = include_str!("init/feature_store.yaml");

pub(super) fn run(name: Name, arguments: &Arguments) -> Outcome {
    let given = arguments.repo_path.as_ref().unwrap_or(&arguments.directory);
    let top = absolute(given);
    let project_directory = absolute(&arguments.directory);
    let project = project_directory
        .file_name()
        .and_then(|name| name.to_str())
        .unwrap_or_default();
    check_name(project)?;
    let template = if arguments.minimal {
        MINIMAL
    } else {
        &arguments.template
    };
    check_template(template)?;
    // Feast puts the repository one folder deeper, which its operator relies on.
    let (place, directory) = match name {
        Name::Thali => (given.clone(), top.clone()),
        Name::Feast => (given.join("feature_repo"), top.join("feature_repo")),
    };
    if [&top, &directory]
        .iter()
        .any(|folder| folder.join("feature_store.yaml").exists())
    {
        return Err(Error::invalid(format!(
            "The directory {} contains an existing feature store repository that may cause a conflict",
            given.display()
        )));
    }
    output::line(format_args!(
        "Creating a new Feast repository in {}.",
        top.display()
    ));
    write(
        &directory.join("feature_store.yaml"),
        FEATURE_STORE.replace("PROJECT", project).as_bytes(),
    )?;
    if template == LOCAL {
        write(&directory.join("definitions.yaml"), DEFINITIONS.as_bytes())?;
        write(
            &directory.join("data/driver_stats.parquet"),
            &driver_stats(Utc::now())?,
        )?;
    }
    let place = place.display();
    output::line(format_args!(
        "Next: thali -c {place} apply, then thali -c {place} serve"
    ));
    Ok(ExitCode::SUCCESS)
}

fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_path_buf())
}

fn check_name(project: &str) -> Result<()> {
    if is_project_name(project) {
        return Ok(());
    }
    Err(Error::invalid(format!("`{project}` is no name for a project")).hint(
        "Name should be alphanumeric values, underscores, and hyphens but not start with an underscore or hyphen",
    ))
}

fn check_template(template: &str) -> Result<()> {
    if [LOCAL, MINIMAL].contains(&template) {
        return Ok(());
    }
    Err(Error::invalid(format!("there is no template `{template}`"))
        .hint("begin with `local` or `minimal`, and write the stores you have into feature_store.yaml"))
}

/// Writes a file and the folders above it.
pub(super) fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    let unwritable =
        |error: std::io::Error| Error::invalid(format!("`{}` cannot be written: {error}", path.display()));
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).map_err(unwritable)?;
    }
    fs::write(path, bytes).map_err(unwritable)
}

/// Fifteen days of hourly numbers of five drivers, as in Feast's example; the same ones every time.
fn driver_stats(now: DateTime<Utc>) -> Result<Vec<u8>> {
    const DRIVERS: std::ops::RangeInclusive<i64> = 1001..=1005;
    const HOURS: i64 = 15 * 24;
    let now = now.duration_trunc(TimeDelta::hours(1)).unwrap_or(now);
    let (mut ids, mut times, mut trips) = (Vec::new(), Vec::new(), Vec::new());
    let (mut conversion, mut acceptance) = (Vec::new(), Vec::new());
    for driver in DRIVERS {
        for hour in 0..HOURS {
            // A fixed scramble of (driver, hour) stands for chance.
            let noise = (driver * 7_919 + hour * 104_729) % 1_000;
            ids.push(driver);
            times.push((now - TimeDelta::hours(HOURS - hour)).timestamp_micros());
            conversion.push(fraction(noise));
            acceptance.push(fraction((noise * 31 + 17) % 1_000));
            trips.push(noise % 100);
        }
    }
    let utc = |times: Vec<i64>| -> ArrayRef {
        Arc::new(TimestampMicrosecondArray::from(times).with_timezone("UTC"))
    };
    let columns: Vec<(&str, ArrayRef)> = vec![
        ("driver_id", Arc::new(Int64Array::from(ids))),
        ("event_timestamp", utc(times.clone())),
        ("created", utc(times)),
        ("conv_rate", Arc::new(Float32Array::from(conversion))),
        ("acc_rate", Arc::new(Float32Array::from(acceptance))),
        ("avg_daily_trips", Arc::new(Int64Array::from(trips))),
    ];
    let failed =
        |error: &dyn std::fmt::Display| Error::internal(format!("the example data cannot be made: {error}"));
    let batch = RecordBatch::try_from_iter(columns).map_err(|error: ArrowError| failed(&error))?;
    let mut bytes = Vec::new();
    let mut writer =
        ArrowWriter::try_new(&mut bytes, batch.schema(), None).map_err(|error| failed(&error))?;
    writer.write(&batch).map_err(|error| failed(&error))?;
    writer.close().map_err(|error| failed(&error))?;
    Ok(bytes)
}

fn fraction(thousandths: i64) -> f32 {
    #[expect(clippy::cast_precision_loss, reason = "below a thousand")]
    let thousandths = thousandths as f32;
    thousandths / 1_000.0
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use crate::{
        config::{Config, Sources},
        definitions::Definitions,
    };

    fn arguments(directory: PathBuf, minimal: bool) -> Arguments {
        Arguments {
            directory,
            template: LOCAL.to_owned(),
            minimal,
            repo_path: None,
        }
    }

    #[test]
    fn what_is_written_can_be_read() {
        let dir = tempfile::tempdir().unwrap();
        let repo = dir.path().join("my_repo");
        run(Name::Thali, &arguments(repo.clone(), false)).unwrap();
        let sources = Sources {
            chdir: Some(repo.clone()),
            ..Sources::default()
        };
        let config = Config::load(&sources).unwrap();
        assert_eq!(config.project, "my_repo");
        assert!(Definitions::read(&config).unwrap().nothing_defined().is_none());
        assert!(repo.join("data/driver_stats.parquet").is_file());
        assert!(
            run(Name::Thali, &arguments(repo, false)).is_err(),
            "an existing repository is left alone"
        );
        assert!(run(Name::Thali, &arguments(dir.path().join("_bad"), false)).is_err());
        let minimal = dir.path().join("minimal");
        run(Name::Thali, &arguments(minimal.clone(), true)).unwrap();
        assert!(!minimal.join("definitions.yaml").exists());
    }
}
