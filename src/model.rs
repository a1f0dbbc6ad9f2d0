//! The object model: what a project holds, as the rest of thali sees it. No I/O.
//!
//! The registry keeps every object as the bytes it was written with ([`Object`]); the typed structs
//! here are read-only interpretations of those bytes, made once when a catalog is loaded.

pub mod entity_key;
pub mod feature_ref;
pub mod feature_view;
pub mod object;
pub mod on_demand;
pub mod value;
pub mod value_type;
pub mod wire;

pub use feature_ref::FeatureRef;
pub use feature_view::{FeatureView, Field, Interval};
pub use object::{Object, ObjectKind};
pub use on_demand::OnDemandFeatureView;
pub use value_type::ValueType;
