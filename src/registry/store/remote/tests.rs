#![expect(clippy::unwrap_used, reason = "tests")]

use std::net::SocketAddr;

use tokio::runtime::Runtime;

use super::{
    super::{
        Change,
        conformance::{self, change, entity},
        memory::MemoryStore,
    },
    *,
};
use crate::{
    model::ObjectKind,
    registry::{Registry, sync},
};

/// A server over a registry in memory.
struct Server {
    address: SocketAddr,
    runtime: Option<Runtime>,
}

impl Server {
    /// Serves at an address; port 0 is any.
    fn start(registry: Arc<Registry>, address: &str) -> Self {
        let service = sync::service_of(registry);
        Self::serve(tonic::service::Routes::new(service).into_axum_router(), address)
    }

    fn serve(served: axum::Router, address: &str) -> Self {
        let listener = std::net::TcpListener::bind(address).unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        // Ends with all its connections, as a process does.
        let runtime = Runtime::new().unwrap();
        runtime.spawn(async move {
            let listener = tokio::net::TcpListener::from_std(listener).unwrap();
            axum::serve(listener, served).await.unwrap();
        });
        Self {
            address,
            runtime: Some(runtime),
        }
    }

    fn client(&self) -> RemoteStore {
        let options = RemoteOptions {
            address: self.address.to_string(),
            ..RemoteOptions::default()
        };
        RemoteStore::open(&options).unwrap()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

fn registry() -> Arc<Registry> {
    Arc::new(Registry::new(Arc::new(MemoryStore::default())))
}

#[tokio::test]
async fn conforms() {
    let server = Server::start(registry(), "127.0.0.1:0");
    conformance::all(&server.client()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn concurrent_writers_lose_nothing() {
    let server = Server::start(registry(), "127.0.0.1:0");
    let clients = (0..3).map(|_| Arc::new(server.client()) as Arc<dyn RegistryStore>);
    conformance::concurrent_writers(clients.collect()).await;
}

#[tokio::test]
async fn a_change_elsewhere_is_told_and_only_it_is_new() {
    let registry = registry();
    let server = Server::start(Arc::clone(&registry), "127.0.0.1:0");
    let client = server.client();
    change(
        &client,
        "p",
        vec![Change::Put(entity("a", "")), Change::Put(entity("b", ""))],
    )
    .await;
    let before = client.load("p").await.unwrap();
    client.changed().await;
    let put = Change::Put(entity("b", "changed by another"));
    registry
        .update("p", None, &mut |_| Ok(vec![put.clone()]))
        .await
        .unwrap();
    client.changed().await;
    let after = client.load("p").await.unwrap();
    let same = |name: &str| {
        let (old, new) = (
            before.object(ObjectKind::Entity, name),
            after.object(ObjectKind::Entity, name),
        );
        Arc::ptr_eq(old.unwrap(), new.unwrap())
    };
    assert!(same("a") && !same("b"));
}

#[tokio::test]
async fn every_call_carries_the_token() {
    use axum::{
        extract::Request,
        http::StatusCode,
        middleware::{Next, from_fn},
        response::IntoResponse as _,
    };

    let guard = async |request: Request, next: Next| match request.headers().get("authorization") {
        Some(token) if token == "Bearer s3cret" => next.run(request).await,
        _ => StatusCode::UNAUTHORIZED.into_response(),
    };
    let routes = tonic::service::Routes::new(sync::service_of(registry())).into_axum_router();
    let server = Server::serve(routes.layer(from_fn(guard)), "127.0.0.1:0");
    let client = |token: Option<&str>| {
        let options = RemoteOptions {
            address: server.address.to_string(),
            token: token.map(str::to_owned),
            ..RemoteOptions::default()
        };
        RemoteStore::open(&options).unwrap()
    };
    conformance::all(&client(Some("s3cret"))).await;
    let error = client(Some("other-s3cret")).load("p").await.unwrap_err();
    assert!(!error.to_string().contains("s3cret"), "{error}");
    assert!(client(None).projects().await.is_err());
}

#[tokio::test]
async fn history_and_authors_go_through() {
    let server = Server::start(registry(), "127.0.0.1:0");
    let client = server.client();
    let author = Author::new("ada", "apply");
    let put = Change::Put(entity("a", ""));
    client
        .update("p", Some(&author), &mut |_| Ok(vec![put.clone()]))
        .await
        .unwrap();
    let page = HistoryPage {
        before: None,
        limit: 10,
    };
    let entries = client.history("p", page).await.unwrap();
    assert_eq!(entries.len(), 1);
    assert!(entries.iter().all(|entry| entry.author == author));
}

#[tokio::test]
async fn a_server_that_went_away_is_missed_and_found_again() {
    let registry = registry();
    let server = Server::start(Arc::clone(&registry), "127.0.0.1:0");
    let address = server.address.to_string();
    let readers = Registry::new(Arc::new(server.client()));
    readers
        .update("p", None, &mut |_| Ok(vec![Change::Put(entity("a", ""))]))
        .await
        .unwrap();
    drop(server);
    let away = async {
        loop {
            if let Err(error) = readers.check().await {
                return error;
            }
            tokio::task::yield_now().await;
        }
    };
    let error = timeout(Duration::from_secs(20), away).await.unwrap();
    assert_eq!(error.kind(), Kind::Unavailable);
    assert!(error.message().contains(&address), "{error}");
    let known = readers.catalog("p").await.unwrap();
    assert!(
        known.object(ObjectKind::Entity, "a").is_some(),
        "what is known is there"
    );
    let refused = readers
        .update("p", None, &mut |_| Ok(vec![Change::Put(entity("b", ""))]))
        .await;
    assert_eq!(refused.unwrap_err().kind(), Kind::Unavailable);

    let _again = Server::start(registry, &address);
    let back = async {
        while readers.check().await.is_err() {
            tokio::task::yield_now().await;
        }
    };
    timeout(Duration::from_secs(20), back).await.unwrap();
    let put = Change::Put(entity("b", ""));
    readers
        .update("p", None, &mut |_| Ok(vec![put.clone()]))
        .await
        .unwrap();
}

#[tokio::test]
async fn large_projects_come_in_parts() {
    let server = Server::start(registry(), "127.0.0.1:0");
    let large = "x".repeat(3000);
    let objects = (0..4000).map(|number| Change::Put(entity(&format!("e{number}"), &large)));
    change(&server.client(), "p", objects.collect()).await;
    let state = server.client().load("p").await.unwrap();
    assert_eq!(state.objects.len(), 4001);
}

#[test]
fn addresses_and_certificates_are_looked_at_first() {
    let open = |address: &str, tls| {
        let options = RemoteOptions {
            address: address.to_owned(),
            tls,
            token: None,
        };
        Connection::new(&options).err().unwrap()
    };
    for address in [
        "",
        "registry",
        "http://registry:6570",
        "registry:6570/path",
        "a b:1",
    ] {
        assert_eq!(open(address, None).kind(), Kind::Config, "{address}");
    }
    let tls = RemoteTls {
        ca: Some("no/such/file.pem".into()),
        ..RemoteTls::default()
    };
    let error = open("registry:6570", Some(tls));
    assert!(error.message().contains("no/such/file.pem"), "{error}");
}
