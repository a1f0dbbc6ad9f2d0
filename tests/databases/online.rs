//! Online stores. Each passes [`conformance`], in a file of its own with what it does besides.

#[path = "online/conformance.rs"]
mod conformance;
#[path = "online/dynamodb.rs"]
mod dynamodb;
#[path = "online/home.rs"]
mod home;
#[path = "online/hybrid.rs"]
mod hybrid;
#[path = "online/mysql.rs"]
mod mysql;
#[path = "online/postgres.rs"]
mod postgres;
#[path = "online/redis.rs"]
mod redis;
#[path = "online/searches.rs"]
mod searches;
#[path = "online/sqlite.rs"]
mod sqlite;
