"""Runs a command beside a PostgreSQL, a MariaDB and a DynamoDB of its own and names them in its environment.

    python tests/with_servers.py cargo test --test databases
"""

import os
import subprocess
import sys

<<<<<<< HEAD
from servers import MariaDb, Pgvector

if __name__ == "__main__":
    with Pgvector.running() as postgres, MariaDb.running() as mariadb:
        urls = {"THALI_TEST_POSTGRES": postgres.url("postgres"), "THALI_TEST_MYSQL": mariadb.url("mysql")}
        sys.exit(subprocess.run(sys.argv[1:], env=os.environ | urls).returncode)
=======
from servers import S3, MariaDb, Postgres

if __name__ == "__main__":
    with Postgres.running() as postgres, MariaDb.running() as mariadb, S3.running() as aws:
        urls = {"THALI_TEST_POSTGRES": postgres.url("postgres"), "THALI_TEST_MYSQL": mariadb.url("mysql"), "THALI_TEST_DYNAMODB": aws.url}
        sys.exit(subprocess.run(sys.argv[1:], env=os.environ | aws.environment() | urls).returncode)
>>>>>>> 8bc3ad2 (Hybrid online store: views name their store by a tag, several are read at once; DynamoDB passes the conformance suite on moto)
