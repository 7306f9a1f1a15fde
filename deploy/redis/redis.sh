#!/bin/sh
# Starts Redis with its password, which it gets through standard input: others could read it on the command line.
set -eu
exec redis-server - "$@" <<CONF
requirepass $REDIS_PASSWORD
CONF
