//! Online stores. Each passes [`conformance`], in a file of its own with what it does besides.

#[path = "online/conformance.rs"]
mod conformance;
#[path = "online/dynamodb.rs"]
mod dynamodb;
#[path = "online/home.rs"]
mod home;
<<<<<<< HEAD
#[path = "online/postgres.rs"]
mod postgres;
=======
#[path = "online/hybrid.rs"]
mod hybrid;
>>>>>>> 8bc3ad2 (Hybrid online store: views name their store by a tag, several are read at once; DynamoDB passes the conformance suite on moto)
#[path = "online/sqlite.rs"]
mod sqlite;
