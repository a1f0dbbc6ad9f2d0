"""Runs a command beside a PostgreSQL, a MariaDB and a DynamoDB of its own and names them in its environment.

    python tests/with_servers.py cargo test --test databases
"""

import os
import subprocess
import sys

from servers import S3, MariaDb, Pgvector

if __name__ == "__main__":
    with Pgvector.running() as postgres, MariaDb.running() as mariadb, S3.running() as aws:
        urls = {
            "THALI_TEST_POSTGRES": postgres.url("postgres"),
            "THALI_TEST_MYSQL": mariadb.url("mysql"),
            "THALI_TEST_DYNAMODB": aws.url,
        }
        sys.exit(subprocess.run(sys.argv[1:], env=os.environ | aws.environment() | urls).returncode)
