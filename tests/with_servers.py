"""Runs a command beside servers of its own and names them in its environment.

    python tests/with_servers.py cargo test --test databases
"""

import os
import subprocess
import sys
from contextlib import ExitStack

from servers import S3, MariaDb, Pgvector, Redis, RedisCluster

if __name__ == "__main__":
    with ExitStack() as stack:
        postgres, mariadb, aws, redis, cluster = (stack.enter_context(kind.running()) for kind in (Pgvector, MariaDb, S3, Redis, RedisCluster))
        urls = {
            "THALI_TEST_POSTGRES": postgres.url("postgres"),
            "THALI_TEST_MYSQL": mariadb.url("mysql"),
            "THALI_TEST_DYNAMODB": aws.url,
            "THALI_TEST_REDIS": redis.address,
            "THALI_TEST_REDIS_CLUSTER": cluster.address,
        }
        sys.exit(subprocess.run(sys.argv[1:], env=os.environ | aws.environment() | urls).returncode)
