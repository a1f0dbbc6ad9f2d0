//! The listeners of a node: which roles open which ports, and what is mounted on each.

use std::{
    convert::Infallible,
    net::{SocketAddr, TcpListener, ToSocketAddrs as _},
    sync::Arc,
};

use axum::{Router, http, response::IntoResponse};
use axum_server::{Handle, accept::NoDelayAcceptor, tls_rustls::RustlsConfig};
use tonic::server::NamedService;
use tower::ServiceExt as _;

use super::{Role, ServeOptions, cannot_bind};
use crate::{
    context::Context,
    error::{Error, Result},
    offline,
    online::{self, limits::Limits},
    proto, registry, schedule, ui,
};

/// What listens on a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ListenerKind {
    Registry,
    RegistryRest,
    Online,
    Offline,
    Ui,
    Metrics,
}

impl ListenerKind {
    /// As announced at start.
    pub fn name(self) -> &'static str {
        match self {
            Self::Registry => "registry",
            Self::RegistryRest => "registry-rest",
            Self::Online => "online",
            Self::Offline => "offline",
            Self::Ui => "ui",
            Self::Metrics => "metrics",
        }
    }

    /// Whether its routes bring their own `/health`.
    pub(super) fn has_own_health(self) -> bool {
        self == Self::Online
    }
}

/// An address that a node listens on.
#[derive(Debug, Clone)]
pub struct Listening {
    pub kind: ListenerKind,
    pub address: SocketAddr,
    /// `http`, `https`, `grpc` or `grpcs`.
    pub scheme: &'static str,
}

/// A listener that is wanted.
#[derive(Debug, Clone)]
pub struct Listen {
    pub kind: ListenerKind,
    pub host: String,
    /// 0 is any free port.
    pub port: u16,
    /// The flag that the port came from, for the error when it cannot be bound.
    pub flag: &'static str,
    /// Without TLS, even when the node has a certificate.
    pub plain: bool,
}

/// A listener that is bound.
pub(super) struct Bound {
    pub(super) listening: Listening,
    pub(super) socket: TcpListener,
    pub(super) plain: bool,
}

/// Binds every listener, all or none.
pub(super) fn bind(options: &ServeOptions) -> Result<Vec<Bound>> {
    let tls = options.tls.is_some();
    options
        .listen
        .iter()
        .map(|listen| bind_one(listen, tls))
        .collect()
}

fn bind_one(listen: &Listen, tls: bool) -> Result<Bound> {
    let failed = |error: std::io::Error| cannot_bind(&listen.host, listen.port, listen.flag, &error);
    let socket = socket(&listen.host, listen.port).map_err(failed)?;
    socket.set_nonblocking(true).map_err(failed)?;
    let address = socket.local_addr().map_err(failed)?;
    let plain = listen.plain || !tls;
    let grpc = matches!(listen.kind, ListenerKind::Registry | ListenerKind::Offline);
    let scheme = match (grpc, plain) {
        (false, true) => "http",
        (false, false) => "https",
        (true, true) => "grpc",
        (true, false) => "grpcs",
    };
    Ok(Bound {
        listening: Listening {
            kind: listen.kind,
            address,
            scheme,
        },
        socket,
        plain,
    })
}

/// `::` means every address of the machine; one without IPv6 has those of IPv4.
fn socket(host: &str, port: u16) -> std::io::Result<TcpListener> {
    let addresses: Vec<SocketAddr> = (host, port).to_socket_addrs()?.collect();
    match TcpListener::bind(addresses.as_slice()) {
        Err(error) if host == "::" && error.kind() != std::io::ErrorKind::AddrInUse => {
            TcpListener::bind(("0.0.0.0", port))
        }
        bound => bound,
    }
}

/// The routes of a listener.
pub(super) fn router<H>(
    kind: ListenerKind,
    context: &Context,
    roles: &[Role],
    health: &tonic_health::pb::health_server::HealthServer<H>,
) -> Result<Router>
where
    H: tonic_health::pb::health_server::Health,
{
    let grpc = |router: Router| -> Result<Router> {
        Ok(mount(mount(router, health.clone()), reflection()?)
            .merge(reflection_v1alpha()?)
            .fallback(unimplemented))
    };
    Ok(match kind {
        ListenerKind::Registry => {
            let router = mount(Router::new(), registry::grpc::service(context.clone()));
            grpc(mount(router, registry::sync::service(context)))?
        }
        ListenerKind::RegistryRest => {
            registry::rest::router(context.clone(), role_names(roles)).merge(own_routes(context))
        }
        ListenerKind::Online => {
            let limits = Arc::new(Limits::new(
                context.config.thali.online.clone(),
                Arc::clone(&context.metrics),
                context.unfinished.clone(),
            ));
            let router = online::http::router(context, Arc::clone(&limits))?;
            let router = mount(router, online::grpc::serving_service(context, &limits));
            let router = mount(router, online::grpc::feature_server(context, &limits));
            let router = mount(mount(router, health.clone()), reflection()?);
            router.merge(reflection_v1alpha()?)
        }
        ListenerKind::Offline => grpc(mount(Router::new(), offline::flight::service(context.clone())))?,
        ListenerKind::Ui => {
            let registry = registry::rest::api_router(context.clone(), role_names(roles));
            ui::router().merge(registry).merge(own_routes(context))
        }
        ListenerKind::Metrics => Router::new(),
    })
}

/// thali's own API, on the REST registry and on the page's port.
fn own_routes(context: &Context) -> Router {
    let routes = schedule::rest::router(context.clone())
        .merge(online::http::lookup_router(context))
        .merge(online::http::rows_router(context));
    Router::new().nest("/api/thali/v1", routes)
}

fn role_names(roles: &[Role]) -> Vec<&'static str> {
    roles.iter().map(|role| role.name()).collect()
}

/// Mounts a gRPC service under its name.
fn mount<S>(router: Router, service: S) -> Router
where
    S: tower::Service<http::Request<tonic::body::Body>, Error = Infallible>
        + NamedService
        + Clone
        + Send
        + Sync
        + 'static,
    S::Response: IntoResponse,
    S::Future: Send + 'static,
{
    let path = format!("/{}/{{*method}}", S::NAME);
    let service = service.map_request(|request: axum::extract::Request| request.map(tonic::body::Body::new));
    router.route_service(&path, service)
}

fn reflection() -> Result<
    tonic_reflection::server::v1::ServerReflectionServer<impl tonic_reflection::server::v1::ServerReflection>,
> {
    tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(proto::DESCRIPTOR_SET)
        .build_v1()
        .map_err(|error| Error::internal(format!("reflection cannot be built: {error}")))
}

fn reflection_v1alpha() -> Result<Router> {
    let service = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(proto::DESCRIPTOR_SET)
        .build_v1alpha()
        .map_err(|error| Error::internal(format!("reflection cannot be built: {error}")))?;
    Ok(mount(Router::new(), service))
}

/// What a gRPC listener answers to a method it does not have.
async fn unimplemented() -> axum::response::Response {
    tonic::Status::unimplemented("").into_http()
}

/// Serves one listener until the handle ends it.
pub(super) async fn run(
    socket: TcpListener,
    tls: Option<RustlsConfig>,
    router: Router,
    handle: Handle<SocketAddr>,
) -> Result<()> {
    let service = router.into_make_service_with_connect_info::<SocketAddr>();
    // An answer goes out in several small writes; with Nagle's algorithm each would wait for the
    // client's delayed acknowledgement, 40 ms a request.
    let served = match tls {
        None => axum_server::from_tcp(socket).map(|server| {
            let mut server = server.acceptor(NoDelayAcceptor::new());
            keep_alive(server.http_builder());
            futures::future::Either::Left(server.handle(handle).serve(service))
        }),
        Some(tls) => axum_server::from_tcp_rustls(socket, tls).map(|server| {
            let mut server = server.map(|tls| tls.acceptor(NoDelayAcceptor::new()));
            keep_alive(server.http_builder());
            futures::future::Either::Right(server.handle(handle).serve(service))
        }),
    };
    let serving =
        served.map_err(|error| Error::unavailable(format!("a listener cannot be served: {error}")))?;
    serving
        .await
        .map_err(|error| Error::unavailable(format!("a listener ended: {error}")))
}

/// Feast's clients set neither deadline nor keep-alive, so the server finds dead connections.
fn keep_alive(builder: &mut hyper_util::server::conn::auto::Builder<hyper_util::rt::TokioExecutor>) {
    builder
        .http2()
        .timer(hyper_util::rt::TokioTimer::new())
        .keep_alive_interval(Some(std::time::Duration::from_secs(30)))
        .adaptive_window(true);
}
