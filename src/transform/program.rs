//! [`Program`]: an on-demand view made ready to run again and again on inputs of the same names and types.

use std::sync::{Arc, OnceLock};

use arrow::datatypes::Schema;

use super::{expressions::Compiled, python::Definition};
use crate::{
    error::{Error, Result},
    model::{OnDemandFeatureView, on_demand::Transformation},
};

/// A view with what is made of it once. It is kept where its inputs are decided, so that it always sees
/// the same ones; making it costs nothing.
#[derive(Debug)]
pub struct Program {
    pub view: Arc<OnDemandFeatureView>,
    compiled: OnceLock<Compiled>,
    definition: OnceLock<Arc<Definition>>,
}

impl Program {
    /// A view that nothing is made of yet.
    pub fn new(view: Arc<OnDemandFeatureView>) -> Self {
        Self {
            view,
            compiled: OnceLock::new(),
            definition: OnceLock::new(),
        }
    }

    /// The view's expressions over inputs of this schema, which is looked at the first time only.
    pub(super) fn compiled(&self, schema: impl FnOnce() -> Schema) -> Result<&Compiled> {
        if let Some(compiled) = self.compiled.get() {
            return Ok(compiled);
        }
        let Transformation::Expressions(texts) = &self.view.transformation else {
            return Err(Error::internal("the view has no expressions"));
        };
        let compiled = Compiled::new(&self.view, texts, &schema())?;
        Ok(self.compiled.get_or_init(|| compiled))
    }

    /// The view's function as workers are told of it.
    pub(super) fn definition(&self) -> Result<&Arc<Definition>> {
        if let Some(definition) = self.definition.get() {
            return Ok(definition);
        }
        let definition = Arc::new(Definition::new(&self.view)?);
        Ok(self.definition.get_or_init(|| definition))
    }
}
