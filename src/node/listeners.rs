//! The listeners of a node: which roles open which ports, and what is mounted on each.

use std::{
    convert::Infallible,
    net::{SocketAddr, TcpListener, ToSocketAddrs as _},
};

use axum::{Router, http, response::IntoResponse};
use axum_server::{Handle, accept::NoDelayAcceptor, tls_rustls::RustlsConfig};
use tonic::server::NamedService;
use tower::ServiceExt as _;

use super::{Role, ServeOptions, cannot_bind};
use crate::{
    context::Context,
    error::{Error, Result},
    offline, online, proto, registry, schedule, ui,
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

/// Binds every port the roles need, all or none.
pub(super) fn bind(options: &ServeOptions) -> Result<Vec<(Listening, TcpListener)>> {
    let mut wanted = Vec::new();
    for role in &options.roles {
        match role {
            Role::Registry => {
                wanted.push((ListenerKind::Registry, options.registry_port, "--registry-port"));
                wanted.push((
                    ListenerKind::RegistryRest,
                    options.registry_rest_port,
                    "--registry-rest-port",
                ));
            }
            Role::Online => wanted.push((ListenerKind::Online, options.online_port, "--online-port")),
            Role::Offline => wanted.push((ListenerKind::Offline, options.offline_port, "--offline-port")),
            Role::Ui => wanted.push((ListenerKind::Ui, options.ui_port, "--ui-port")),
            // It answers on the metrics port only.
            Role::Scheduler => {}
        }
    }
    wanted.push((ListenerKind::Metrics, options.metrics_port, "--metrics-port"));
    wanted
        .into_iter()
        .map(|(kind, port, flag)| bind_one(options, kind, port, flag))
        .collect()
}

fn bind_one(
    options: &ServeOptions,
    kind: ListenerKind,
    port: u16,
    flag: &str,
) -> Result<(Listening, TcpListener)> {
    let host = options.host.as_str();
    let addresses = (host, port)
        .to_socket_addrs()
        .map_err(|error| cannot_bind(host, port, flag, &error))?;
    let addresses: Vec<SocketAddr> = addresses.collect();
    let socket =
        TcpListener::bind(addresses.as_slice()).map_err(|error| cannot_bind(host, port, flag, &error))?;
    socket
        .set_nonblocking(true)
        .map_err(|error| cannot_bind(host, port, flag, &error))?;
    let address = socket
        .local_addr()
        .map_err(|error| cannot_bind(host, port, flag, &error))?;
    let grpc = matches!(kind, ListenerKind::Registry | ListenerKind::Offline);
    let scheme = match (grpc, options.tls.is_some()) {
        (false, false) => "http",
        (false, true) => "https",
        (true, false) => "grpc",
        (true, true) => "grpcs",
    };
    Ok((
        Listening {
            kind,
            address,
            scheme,
        },
        socket,
    ))
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
        ListenerKind::Registry => grpc(mount(Router::new(), registry::grpc::service(context.clone())))?,
        ListenerKind::RegistryRest => {
            registry::rest::router(context.clone(), role_names(roles)).merge(own_routes(context))
        }
        ListenerKind::Online => {
            let router = online::http::router(context.clone());
            let router = mount(router, online::grpc::serving_service(context));
            let router = mount(router, online::grpc::feature_server(context));
            mount(router, health.clone())
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
    let routes = schedule::rest::router(context.clone()).merge(online::http::lookup_router(context));
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
    let service = router.into_make_service();
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
