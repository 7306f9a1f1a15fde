# Sourced by the scripts that write into BACKUP_DIR: ends them, with one line, when it holds the backups of another history
# than the server's. Each failover and each restore begins a new one (a timeline), which must not follow the old one's log.
# Tells the textfile collector of a node exporter, where BACKUP_METRICS is its directory. The label `server` is BACKUP_SERVER,
# or the name of BACKUP_DIR.
metric() { # NAME VALUE QUESTION
  [ -n "${BACKUP_METRICS:-}" ] || return 0
  local server=${BACKUP_SERVER:-${BACKUP_DIR##*/}}
  local file="$BACKUP_METRICS/$server-$1.prom"
  printf '# HELP %s %s\n# TYPE %s gauge\n%s{server="%s"} %s\n' "$1" "$3" "$1" "$1" "$server" "$2" >"$file.$$"
  mv "$file.$$" "$file"
}
refused() { metric onsale_backup_refused "$1" "Does the directory hold the backups of another server or timeline?"; }

asked=$DATABASE_URL
case $asked in *\?*) asked+='&' ;; *) asked+='?' ;; esac
ask() { psql --no-psqlrc -At --field-separator=' ' "${asked}replication=true" --command="$1"; }

history=$(ask IDENTIFY_SYSTEM | cut -d ' ' -f 1,2)
timeline=${history#* }
# Two servers may have the same timeline number and still have branched off at different moments.
[ "$timeline" = 1 ] || history+=$'\n'$(ask "TIMELINE_HISTORY $timeline")
mkdir -p "$BACKUP_DIR"
[ -e "$BACKUP_DIR/history" ] || echo "$history" >"$BACKUP_DIR/history"
if [ "$history" != "$(cat "$BACKUP_DIR/history")" ]; then
  echo "${0##*/}: $BACKUP_DIR holds another server or timeline than $timeline of this one: use a new BACKUP_DIR" >&2
  refused 1
  exit 1
fi
refused 0
