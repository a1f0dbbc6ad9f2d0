//! The one error type of thali and the one table that maps it to HTTP, gRPC and Feast's exception
//! classes. It renders nothing and logs nothing; surfaces do that through the table here.

use std::{borrow::Cow, error::Error as StdError, fmt};

use crate::cloud;

/// The result every fallible function of the crate returns.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What went wrong, as far as the caller can act on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    EntityNotFound,
    FeatureViewNotFound,
    FeatureServiceNotFound,
    DataSourceNotFound,
    SavedDatasetNotFound,
    ValidationReferenceNotFound,
    PermissionNotFound,
    ProjectNotFound,
    FeatureViewVersionNotFound,
    ObjectNotFound,
    RequestDataNotFound,
    PushSourceNotFound,
    PermissionDenied,
    ConflictingFeatureViewNames,
    FeatureViewPinConflict,
    ConcurrentVersionConflict,
    FeatureNameCollision,
    EntityColumnsMissing,
    /// The request itself is wrong; sending it again cannot help.
    InvalidArgument,
    /// The configuration or a definition file is wrong.
    Config,
    AlreadyExists,
    /// Somebody else changed the same thing first; trying again can help.
    Conflict,
    Unauthenticated,
    /// The request is longer than what is taken.
    TooLarge,
    Unsupported,
    Overloaded,
    DeadlineExceeded,
    /// A store or a peer cannot be reached right now.
    Unavailable,
    Internal,
}

/// HTTP status, gRPC code and Feast class of a [`Kind`], in one row.
struct Row {
    http: u16,
    grpc: tonic::Code,
    class: &'static str,
}

impl Kind {
    /// Classes live in Feast's `feast/errors.py`; kinds without one of their own travel as `FeastError`.
    fn row(self) -> Row {
        use tonic::Code;
        let (http, grpc, class) = match self {
            Self::EntityNotFound => (404, Code::NotFound, "EntityNotFoundException"),
            Self::FeatureViewNotFound => (404, Code::NotFound, "FeatureViewNotFoundException"),
            Self::FeatureServiceNotFound => (404, Code::NotFound, "FeatureServiceNotFoundException"),
            Self::DataSourceNotFound => (404, Code::NotFound, "DataSourceObjectNotFoundException"),
            Self::SavedDatasetNotFound => (404, Code::NotFound, "SavedDatasetNotFound"),
            Self::ValidationReferenceNotFound => (404, Code::NotFound, "ValidationReferenceNotFound"),
            Self::PermissionNotFound => (404, Code::NotFound, "PermissionObjectNotFoundException"),
            Self::ProjectNotFound => (404, Code::NotFound, "ProjectObjectNotFoundException"),
            Self::FeatureViewVersionNotFound => (404, Code::NotFound, "FeatureViewVersionNotFound"),
            Self::ObjectNotFound => (404, Code::NotFound, "FeastObjectNotFoundException"),
            Self::RequestDataNotFound => (404, Code::NotFound, "RequestDataNotFoundInEntityRowsException"),
            Self::PushSourceNotFound => (422, Code::InvalidArgument, "PushSourceNotFoundException"),
            Self::PermissionDenied => (403, Code::PermissionDenied, "FeastPermissionError"),
            Self::ConflictingFeatureViewNames => (409, Code::Internal, "ConflictingFeatureViewNames"),
            Self::FeatureViewPinConflict => (409, Code::Internal, "FeatureViewPinConflict"),
            Self::ConcurrentVersionConflict => (409, Code::Internal, "ConcurrentVersionConflict"),
            Self::FeatureNameCollision => (400, Code::InvalidArgument, "FeatureNameCollisionError"),
            Self::EntityColumnsMissing => (400, Code::InvalidArgument, "FeastEntityDFMissingColumnsError"),
            Self::InvalidArgument | Self::Config => (400, Code::InvalidArgument, "FeastError"),
            Self::AlreadyExists => (409, Code::AlreadyExists, "FeastError"),
            Self::Conflict => (409, Code::Aborted, "FeastError"),
            Self::Unauthenticated => (401, Code::Unauthenticated, "FeastError"),
            Self::TooLarge => (413, Code::ResourceExhausted, "FeastError"),
            Self::Unsupported => (501, Code::Unimplemented, "FeastError"),
            Self::Overloaded => (503, Code::ResourceExhausted, "FeastError"),
            Self::DeadlineExceeded => (504, Code::DeadlineExceeded, "FeastError"),
            Self::Unavailable => (503, Code::Unavailable, "FeastError"),
            Self::Internal => (500, Code::Internal, "FeastError"),
        };
        Row { http, grpc, class }
    }

    /// The HTTP status every HTTP surface answers with.
    pub fn http(self) -> u16 {
        self.row().http
    }

    /// The gRPC code every gRPC surface answers with.
    pub fn grpc(self) -> tonic::Code {
        self.row().grpc
    }

    /// The class of `feast.errors` that Feast's clients raise for it.
    pub fn feast_class(self) -> &'static str {
        self.row().class
    }

    /// Whether the caller has to change something before it tries again.
    pub fn is_callers_fault(self) -> bool {
        self.http() < 500
    }
}

/// An error: a kind, one line that says what and where, and a hint that says what to do.
#[derive(Debug)]
pub struct Error {
    kind: Kind,
    message: Cow<'static, str>,
    hint: Option<Cow<'static, str>>,
    source: Option<Box<dyn StdError + Send + Sync>>,
}

impl Error {
    /// An error of `kind` whose message names the thing in backticks and what was expected.
    pub fn new(kind: Kind, message: impl Into<Cow<'static, str>>) -> Self {
        Self {
            kind,
            message: message.into(),
            hint: None,
            source: None,
        }
    }

    /// The caller's request is wrong.
    pub fn invalid(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(Kind::InvalidArgument, message)
    }

    /// A configuration or definition file is wrong.
    pub fn config(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(Kind::Config, message)
    }

    /// A promise of our own is broken.
    pub fn internal(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(Kind::Internal, message)
    }

    /// A store or peer cannot be reached.
    pub fn unavailable(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(Kind::Unavailable, message)
    }

    /// Something Feast has and thali does not (yet).
    pub fn unsupported(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(Kind::Unsupported, message)
    }

    /// Adds what the user can do about it.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<Cow<'static, str>>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Adds the error underneath; it is logged, and shown to operators, never needed to act.
    #[must_use]
    pub fn source_error(mut self, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// Puts `context` in front of the message: "reading `a.parquet`: no such file".
    #[must_use]
    pub fn context(mut self, context: impl fmt::Display) -> Self {
        self.message = format!("{context}: {}", self.message).into();
        self
    }

    /// The error of ours that another one carries, so that its kind and hint survive the trip through an
    /// engine. What is underneath is borrowed, so that it is made anew.
    pub(crate) fn within(error: &(dyn StdError + 'static)) -> Option<Self> {
        let mut cause = Some(error);
        while let Some(error) = cause {
            if let Some(ours) = error.downcast_ref::<Self>() {
                return Some(Self {
                    kind: ours.kind,
                    message: ours.message.clone(),
                    hint: ours.hint.clone(),
                    source: ours.source.as_ref().map(|source| source.to_string().into()),
                });
            }
            cause = error.source();
        }
        None
    }

    /// The kind, for the table.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// The message without the hint.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// The hint, if there is one.
    pub fn hint_text(&self) -> Option<&str> {
        self.hint.as_deref()
    }

    /// The JSON object that Feast's clients rebuild a Python exception from
    /// (`feast/errors.py`, `FeastError.from_error_detail`).
    pub fn feast_detail(&self) -> String {
        serde_json::json!({
            "module": "feast.errors",
            "class": self.kind.feast_class(),
            "message": self.one_line(),
        })
        .to_string()
    }

    /// Message and hint on one line.
    pub fn one_line(&self) -> String {
        match &self.hint {
            Some(hint) => format!("{} ({hint})", self.message),
            None => self.message.to_string(),
        }
    }
}

/// The innermost reason of an error: of a connection that fails it is the part that says why, and it names
/// no URL, in which there may be a password.
pub(crate) fn reason(error: &(dyn StdError + 'static)) -> String {
    if error
        .downcast_ref::<reqwest::Error>()
        .is_some_and(reqwest::Error::is_timeout)
    {
        return "no answer in time".to_owned();
    }
    let mut innermost = error;
    while let Some(cause) = innermost.source() {
        innermost = cause;
    }
    innermost.to_string()
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        if let Some(hint) = &self.hint {
            write!(f, "\n  hint: {hint}")?;
        }
        Ok(())
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.source.as_deref().map(|source| source as _)
    }
}

impl From<Error> for tonic::Status {
    fn from(error: Error) -> Self {
        if !error.kind.is_callers_fault() {
            tracing::error!(error = %error, source = ?error.source, "request failed");
        }
        Self::new(error.kind.grpc(), error.feast_detail())
    }
}

impl From<datafusion::error::DataFusionError> for Error {
    fn from(error: datafusion::error::DataFusionError) -> Self {
        use datafusion::error::DataFusionError;
        if let Some(ours) = Self::within(&error) {
            return ours;
        }
        match error.find_root() {
            DataFusionError::ResourcesExhausted(text) => Self::new(
                Kind::Overloaded,
                format!("query needs more memory than it may use: {text}"),
            ),
            _ => Self::internal(format!("query failed: {}", error.strip_backtrace())).source_error(error),
        }
    }
}

impl From<object_store::Error> for Error {
    fn from(error: object_store::Error) -> Self {
        Self::within(&error).unwrap_or_else(|| {
            Self::unavailable(format!(
                "the object store cannot be used: {}",
                cloud::plain(&error)
            ))
        })
    }
}

impl From<arrow::error::ArrowError> for Error {
    fn from(error: arrow::error::ArrowError) -> Self {
        Self::invalid(format!("column data cannot be read: {error}")).source_error(error)
    }
}

impl From<Error> for datafusion::error::DataFusionError {
    fn from(error: Error) -> Self {
        Self::External(Box::new(error))
    }
}

impl From<prost::DecodeError> for Error {
    fn from(error: prost::DecodeError) -> Self {
        Self::invalid(format!("malformed protobuf: {error}")).source_error(error)
    }
}
