//! Columns of moments as plain numbers on one scale, so that times of any Arrow type compare exactly.
//!
//! Naive times are UTC. Nothing here knows of joins.

use std::time::Duration;

use arrow::{
    array::{Array, ArrayRef, AsArray, Int64Array},
    compute::{CastOptions, cast_with_options},
    datatypes::{
        DataType, Int64Type, TimeUnit, TimestampMicrosecondType, TimestampMillisecondType,
        TimestampNanosecondType, TimestampSecondType,
    },
};

use crate::error::{Error, Result};

/// The unit all times of one join are counted in. It is the finest unit any of them has; times that
/// do not fit (nanoseconds end in 2262) are held at the end of the scale.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Scale {
    Micros,
    Nanos,
}

impl Scale {
    /// The scale that loses nothing of columns of these types.
    pub fn finest<'a>(types: impl IntoIterator<Item = &'a DataType>) -> Self {
        let nanos = types
            .into_iter()
            .any(|data_type| matches!(data_type, DataType::Timestamp(TimeUnit::Nanosecond, _)));
        if nanos { Self::Nanos } else { Self::Micros }
    }

    /// The Arrow unit of the scale.
    pub fn unit(self) -> TimeUnit {
        match self {
            Self::Micros => TimeUnit::Microsecond,
            Self::Nanos => TimeUnit::Nanosecond,
        }
    }

    /// A length of time on the scale, rounded down; lengths beyond it are as good as endless.
    pub fn length(self, length: Duration) -> i64 {
        let count = match self {
            Self::Micros => length.as_micros(),
            Self::Nanos => length.as_nanos(),
        };
        i64::try_from(count).unwrap_or(i64::MAX)
    }

    /// The moment on the scale, kept at its end when it lies beyond; rounded down between two ticks.
    pub fn moment(self, moment: chrono::DateTime<chrono::Utc>) -> i64 {
        match self {
            Self::Micros => moment.timestamp_micros(),
            Self::Nanos => {
                let nanos = i128::from(moment.timestamp()) * 1_000_000_000
                    + i128::from(moment.timestamp_subsec_nanos());
                i64::try_from(nanos).unwrap_or(if nanos < 0 { i64::MIN } else { i64::MAX })
            }
        }
    }

    fn per_second(self) -> i64 {
        match self {
            Self::Micros => 1_000_000,
            Self::Nanos => 1_000_000_000,
        }
    }
}

/// Whether a column of the type holds moments without any parsing.
pub fn is_moment(data_type: &DataType) -> bool {
    matches!(
        data_type,
        DataType::Timestamp(..) | DataType::Date32 | DataType::Date64
    )
}

/// Whether a column of the type can be read as moments.
pub fn is_readable(data_type: &DataType) -> bool {
    match data_type {
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => true,
        DataType::Dictionary(_, values) => is_readable(values),
        other => is_moment(other),
    }
}

/// Reads a column as moments on `scale`; text is ISO 8601, with the zone it names or UTC.
///
/// # Errors
/// `InvalidArgument` naming `column` when its type holds no moments or a text is none.
pub fn moments(array: &ArrayRef, scale: Scale, column: &str) -> Result<Int64Array> {
    let per_second = scale.per_second();
    Ok(match array.data_type() {
        DataType::Timestamp(TimeUnit::Second, _) => array
            .as_primitive::<TimestampSecondType>()
            .unary::<_, Int64Type>(|t| t.saturating_mul(per_second)),
        DataType::Timestamp(TimeUnit::Millisecond, _) => {
            array
                .as_primitive::<TimestampMillisecondType>()
                .unary::<_, Int64Type>(|t| t.saturating_mul(per_second / 1_000))
        }
        DataType::Timestamp(TimeUnit::Microsecond, _) => {
            let array = array.as_primitive::<TimestampMicrosecondType>();
            match scale {
                Scale::Micros => array.reinterpret_cast::<Int64Type>(),
                Scale::Nanos => array.unary::<_, Int64Type>(|t| t.saturating_mul(1_000)),
            }
        }
        DataType::Timestamp(TimeUnit::Nanosecond, _) => {
            let array = array.as_primitive::<TimestampNanosecondType>();
            match scale {
                Scale::Micros => array.unary::<_, Int64Type>(|t| t.div_euclid(1_000)),
                Scale::Nanos => array.reinterpret_cast::<Int64Type>(),
            }
        }
        DataType::Date32 | DataType::Date64 => {
            let seconds = convert(array, &DataType::Timestamp(TimeUnit::Second, None), column)?;
            return moments(&seconds, scale, column);
        }
        data_type if is_readable(data_type) => {
            let parsed = convert(
                array,
                &DataType::Timestamp(scale.unit(), Some("UTC".into())),
                column,
            )?;
            return moments(&parsed, scale, column);
        }
        data_type => {
            return Err(
                Error::invalid(format!("column `{column}` of type {data_type} holds no times"))
                    .hint("use a timestamp, a date, or ISO 8601 text such as `2024-01-31T12:00:00Z`"),
            );
        }
    })
}

fn convert(array: &ArrayRef, to: &DataType, column: &str) -> Result<ArrayRef> {
    let options = CastOptions {
        safe: false,
        ..CastOptions::default()
    };
    cast_with_options(array, to, &options).map_err(|error| {
        Error::invalid(format!(
            "column `{column}` of type {} cannot be read as times: {error}",
            array.data_type()
        ))
    })
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use std::sync::Arc;

    use arrow::array::{
        Date32Array, StringArray, TimestampMicrosecondArray, TimestampNanosecondArray, TimestampSecondArray,
    };

    use super::*;

    fn read(array: &ArrayRef, scale: Scale) -> Vec<Option<i64>> {
        moments(array, scale, "t").unwrap().iter().collect()
    }

    #[test]
    fn every_form_of_one_moment_is_the_same_number() {
        let noon = 1_767_268_800;
        let forms: Vec<ArrayRef> = vec![
            Arc::new(TimestampSecondArray::from(vec![noon])),
            Arc::new(
                TimestampMicrosecondArray::from(vec![noon * 1_000_000]).with_timezone("America/New_York"),
            ),
            Arc::new(TimestampNanosecondArray::from(vec![noon * 1_000_000_000])),
            Arc::new(StringArray::from(vec!["2026-01-01T12:00:00"])),
            Arc::new(StringArray::from(vec!["2026-01-01 07:00:00-05:00"])),
        ];
        for form in forms {
            assert_eq!(read(&form, Scale::Micros), [Some(noon * 1_000_000)], "{form:?}");
            assert_eq!(read(&form, Scale::Nanos), [Some(noon * 1_000_000_000)]);
        }
        let day: ArrayRef = Arc::new(Date32Array::from(vec![-1]));
        assert_eq!(read(&day, Scale::Micros), [Some(-86_400_000_000)]);
    }

    #[test]
    fn far_times_stay_at_the_end_of_the_scale_and_rounding_goes_down() {
        let far: ArrayRef = Arc::new(TimestampSecondArray::from(vec![
            Some(253_402_300_799),
            None,
            Some(-99_999_999_999),
        ]));
        assert_eq!(read(&far, Scale::Nanos), [Some(i64::MAX), None, Some(i64::MIN)]);
        let before_1970: ArrayRef = Arc::new(TimestampNanosecondArray::from(vec![-1]));
        assert_eq!(read(&before_1970, Scale::Micros), [Some(-1)]);
    }

    #[test]
    fn what_is_no_time_is_refused_by_name() {
        let numbers: ArrayRef = Arc::new(Int64Array::from(vec![1]));
        let error = moments(&numbers, Scale::Micros, "when").unwrap_err();
        assert!(error.message().contains("`when` of type Int64"), "{error}");
        let text: ArrayRef = Arc::new(StringArray::from(vec!["yesterday"]));
        assert!(
            moments(&text, Scale::Micros, "when")
                .unwrap_err()
                .message()
                .contains("yesterday")
        );
    }
}
