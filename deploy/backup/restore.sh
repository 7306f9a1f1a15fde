#!/usr/bin/env bash
# restore.sh DATA_DIR [TIME]: makes a data directory out of the newest base backup before TIME and tells PostgreSQL to
# replay the archived log up to TIME, or all of it, when it is started there. Needs GNU date. Run it as the user that runs
# PostgreSQL. What to do around it: docs/operations.md, "Backing up and restoring a shard".
set -euo pipefail
: "${BACKUP_DIR:?is required: where the backups of this server are kept}"
refuse() { echo "restore: $*" >&2; exit 1; }

data=${1:?"use: restore.sh DATA_DIR [TIME]"}
[ ! -e "$data" ] || [ -z "$(ls -A "$data")" ] || refuse "$data is not empty"
backups=$(cd "$BACKUP_DIR" && pwd) || refuse "$BACKUP_DIR cannot be read"
case $backups in *[\'\"%\\]*) refuse "$backups: PostgreSQL cannot be told of a path with ' \" % or \\" ;; esac
target='' before='9'
if [ -n "${2:-}" ]; then
  target=$(date -u -d "$2" '+%Y-%m-%d %H:%M:%S.%6N+00') || refuse "$2 is no time; give one like 2030-06-01T20:00:00Z"
  before=$(date -u -d "$2" +%Y%m%dT%H%M%S.%6NZ)
fi

newest=''
for base in "$backups"/base/*; do
  if [ -e "$base" ] && [[ ${base##*/} < $before ]]; then newest=$base; fi
done
[ -n "$newest" ] || refuse "no base backup in $backups/base ended before ${2:-now}"

mkdir -p -m 700 "$data"
cp -a "$newest/." "$data"
# The last segment, which is still being written, has a name of its own. The log is followed along the base backup's
# timeline, never into that of an earlier restore. When recovery ends, these settings go: a replica copies them, and would
# obey. The new timeline's history goes to the archive, so that no other restore from there takes the same number.
cat >> "$data/postgresql.auto.conf" << SETTINGS
restore_command = 'cp "$backups/wal/%f" "%p" || cp "$backups/wal/%f.partial" "%p"'
recovery_target_timeline = 'current'
recovery_target_time = '$target'
recovery_target_action = 'promote'
recovery_end_command = 'sed -i -E "/^(restore_command|recovery_(target|end))/d" postgresql.auto.conf; cp pg_wal/*.history "$backups/wal"'
SETTINGS
touch "$data/recovery.signal"
echo "start PostgreSQL on $data: it begins with base backup ${newest##*/} and replays the log up to ${target:-its end}"
