//! [`FeatureRef`]: how a caller names a feature, `view:feature`, `view@latest:feature` or `view@v2:feature`.

use std::fmt;

use crate::error::{Error, Result};

/// A parsed feature reference.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct FeatureRef {
    pub view: String,
    /// A pinned version number; `None` is the active version.
    pub version: Option<u32>,
    pub feature: String,
}

impl FeatureRef {
    /// Parses a reference.
    ///
    /// # Errors
    /// `InvalidArgument` naming the reference when it has another form.
    pub fn parse(text: &str) -> Result<Self> {
        let malformed = || {
            Error::invalid(format!("`{text}` is no feature reference"))
                .hint("write `feature_view:feature`, for example `driver_stats:conv_rate`")
        };
        let (view, feature) = text.split_once(':').ok_or_else(malformed)?;
        let (view, version) = match view.split_once('@') {
            None => (view, None),
            Some((view, version)) => (view, parse_version(version).ok_or_else(malformed)?),
        };
        if view.is_empty() || feature.is_empty() || feature.contains(':') {
            return Err(malformed());
        }
        Ok(Self {
            view: view.to_owned(),
            version,
            feature: feature.to_owned(),
        })
    }
}

/// Reads `latest`, `vN` or `versionN`, case ignored (`feast/version_utils.py`); `None` when it is neither.
pub fn parse_version(text: &str) -> Option<Option<u32>> {
    let text = text.to_ascii_lowercase();
    if text.is_empty() || text == "latest" {
        return Some(None);
    }
    let digits = text.strip_prefix("version").or_else(|| text.strip_prefix('v'))?;
    digits.parse().ok().map(Some)
}

impl fmt::Display for FeatureRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.version {
            None => write!(f, "{}:{}", self.view, self.feature),
            Some(version) => write!(f, "{}@v{version}:{}", self.view, self.feature),
        }
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn reads_every_form() {
        assert_eq!(FeatureRef::parse("v:f").unwrap().version, None);
        assert_eq!(FeatureRef::parse("v@latest:f").unwrap().version, None);
        assert_eq!(FeatureRef::parse("v@V2:f").unwrap().version, Some(2));
        for bad in ["", "v", "v:", ":f", "v@x:f", "a:b:c"] {
            assert!(FeatureRef::parse(bad).is_err(), "{bad}");
        }
    }
}
