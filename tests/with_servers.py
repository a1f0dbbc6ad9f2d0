"""Runs a command beside a PostgreSQL and a MariaDB of its own and names them in its environment.

    python tests/with_servers.py cargo test --test databases
"""

import os
import subprocess
import sys

from servers import MariaDb, Pgvector

if __name__ == "__main__":
    with Pgvector.running() as postgres, MariaDb.running() as mariadb:
        urls = {"THALI_TEST_POSTGRES": postgres.url("postgres"), "THALI_TEST_MYSQL": mariadb.url("mysql")}
        sys.exit(subprocess.run(sys.argv[1:], env=os.environ | urls).returncode)
