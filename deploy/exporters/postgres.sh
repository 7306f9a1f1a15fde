#!/bin/sh
# Asks whichever server Prometheus names (/probe). The exporter takes the password out of a file only.
set -eu
umask 077
cat >/tmp/postgres.yml <<YML
auth_modules:
  monitor:
    type: userpass
    userpass: { username: monitor, password: "$MONITOR_PASSWORD" }
    options: { sslmode: disable }
YML
exec prometheus-postgres-exporter --config.file=/tmp/postgres.yml "$@"
