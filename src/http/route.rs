//! [`Route`]: a route and what is told of it, so that a router and its document are made from one table.

use axum::{Router, routing::MethodRouter};
use serde_json::Value;

use super::openapi::schema::text;

/// A parameter of the query.
#[derive(Debug, Clone)]
pub(crate) struct Param {
    pub(crate) name: &'static str,
    pub(crate) required: bool,
    pub(crate) schema: Value,
    pub(crate) about: &'static str,
}

/// One route.
pub(crate) struct Route<S> {
    pub(crate) method: &'static str,
    pub(crate) path: String,
    pub(crate) group: &'static str,
    pub(crate) summary: String,
    pub(crate) params: Vec<Param>,
    pub(crate) body: Option<Value>,
    pub(crate) status: u16,
    /// `None` when there is no body.
    pub(crate) answer: Option<Value>,
    /// Feast's routes answer with and without the prefix.
    pub(crate) is_feasts: bool,
    pub(crate) handler: MethodRouter<S>,
}

impl<S> Route<S> {
    pub(crate) fn new(
        method: &'static str,
        path: impl Into<String>,
        summary: impl Into<String>,
        handler: MethodRouter<S>,
    ) -> Self {
        Self {
            method,
            path: path.into(),
            group: "",
            summary: summary.into(),
            params: Vec::new(),
            body: None,
            status: 200,
            answer: None,
            is_feasts: true,
            handler,
        }
    }

    /// The route of a router that has its state already.
    pub(crate) fn with_state(self, state: S) -> Route<()>
    where
        S: Clone + Send + Sync + 'static,
    {
        Route {
            handler: self.handler.with_state(state),
            method: self.method,
            path: self.path,
            group: self.group,
            summary: self.summary,
            params: self.params,
            body: self.body,
            status: self.status,
            answer: self.answer,
            is_feasts: self.is_feasts,
        }
    }

    pub(crate) fn takes(mut self, params: impl IntoIterator<Item = Param>) -> Self {
        self.params.extend(params);
        self
    }

    pub(crate) fn reads(mut self, body: Value) -> Self {
        self.body = Some(body);
        self
    }

    pub(crate) fn answers(mut self, schema: Value) -> Self {
        self.answer = Some(schema);
        self
    }
}

/// A parameter that may be left out.
pub(crate) fn param(name: &'static str, schema: Value, about: &'static str) -> Param {
    Param {
        name,
        required: false,
        schema,
        about,
    }
}

/// A text that must be there.
pub(crate) fn required(name: &'static str, about: &'static str) -> Param {
    Param {
        required: true,
        ..param(name, text(), about)
    }
}

/// A text that may be left out.
pub(crate) fn string(name: &'static str, about: &'static str) -> Param {
    param(name, text(), about)
}

/// Puts routes into a group of the document.
pub(crate) fn add<S>(all: &mut Vec<Route<S>>, group: &'static str, routes: Vec<Route<S>>) {
    all.extend(routes.into_iter().map(|route| Route { group, ..route }));
}

/// The router of these routes.
pub(crate) fn router<S>(routes: impl IntoIterator<Item = Route<S>>) -> Router<S>
where
    S: Clone + Send + Sync + 'static,
{
    routes.into_iter().fold(Router::new(), |router, route| {
        router.route(&route.path, route.handler)
    })
}
