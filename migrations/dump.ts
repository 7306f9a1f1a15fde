/**
 * Prints a database's schema, always in the same order, so that the diff of `schema.sql` shows what a migration does.
 * `pg_dump` would say more, but is not among the binaries that come with the project.
 */
import { Database, type Statement } from "../shared/database/database.ts";

const CONNECT_TIMEOUT_MS = 10_000;

/** Statements that return lines of SQL, for all in `public` except the runner's table. */
const PARTS: readonly Statement[] = [
  {
    name: "dump-tables",
    text: `
      select format(E'create table %I (\\n%s\\n)%s%s;', c.relname,
               (select string_agg(format('  %I %s%s%s', a.attname, format_type(a.atttypid, a.atttypmod),
                                         case when a.attnotnull then ' not null' end,
                                         ' default ' || pg_get_expr(d.adbin, d.adrelid)), E',\\n' order by a.attnum)
                from pg_attribute a
                left join pg_attrdef d on d.adrelid = a.attrelid and d.adnum = a.attnum
                where a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped),
               ' partition by ' || pg_get_partkeydef(c.oid),
               ' with (' || array_to_string(c.reloptions, ', ') || ')') as line
      from pg_class c where c.relnamespace = 'public'::regnamespace and c.relkind in ('r', 'p') and not c.relispartition
        and c.relname <> 'schema_migrations' order by c.relname collate "C"`,
  },
  {
    // A partition has the columns, constraints and indexes of its table.
    name: "dump-partitions",
    text: `
      select format('create table %I partition of %s %s%s;', c.relname, i.inhparent::regclass, pg_get_expr(c.relpartbound, c.oid),
               ' with (' || array_to_string(c.reloptions, ', ') || ')') as line
      from pg_class c join pg_inherits i on i.inhrelid = c.oid
      where c.relnamespace = 'public'::regnamespace and c.relispartition and c.relkind = 'r'
      order by c.relname collate "C"`,
  },
  {
    name: "dump-sequences",
    text: `
      select format('create sequence %I minvalue %s;', sequencename, min_value) as line from pg_sequences
      where schemaname = 'public' order by sequencename collate "C"`,
  },
  {
    // `not null` is printed with the column.
    name: "dump-constraints",
    text: `
      select format('alter table %s add constraint %I %s;', conrelid::regclass, conname, pg_get_constraintdef(oid)) as line
      from pg_constraint
      where connamespace = 'public'::regnamespace and conrelid <> 0 and contype <> 'n'
        and conrelid <> to_regclass('schema_migrations') and conparentid = 0
      order by conrelid::regclass::text collate "C", contype, conname collate "C"`,
  },
  {
    // Those of constraints too: they may have settings.
    name: "dump-indexes",
    text: `
      select indexdef || ';' as line from pg_indexes
      where schemaname = 'public' and tablename <> 'schema_migrations'
        and not (select c.relispartition from pg_class c where c.oid = format('%I.%I', schemaname, tablename)::regclass)
      order by tablename collate "C", indexname collate "C"`,
  },
  {
    name: "dump-functions",
    text: `
      select rtrim(pg_get_functiondef(oid), E'\\n') || ';' as line from pg_proc
      where pronamespace = 'public'::regnamespace order by oid::regprocedure::text collate "C"`,
  },
  {
    name: "dump-views",
    text: `
      select format(E'create view %I as\\n%s', viewname, definition) as line from pg_views
      where schemaname = 'public' order by viewname collate "C"`,
  },
  {
    name: "dump-triggers",
    text: `
      select pg_get_triggerdef(oid) || ';' as line from pg_trigger where not tgisinternal
      order by tgrelid::regclass::text collate "C", tgname collate "C"`,
  },
  {
    // Not the owner's rights: the owner always has them, and has another name on each server.
    name: "dump-grants",
    text: `
      select format('grant %s on %s to %s;', lower(string_agg(a.privilege_type, ', ' order by a.privilege_type)),
               c.oid::regclass, case a.grantee when 0 then 'public' else a.grantee::regrole::text end) as line
      from pg_class c cross join lateral aclexplode(c.relacl) a
      where c.relnamespace = 'public'::regnamespace and a.grantee <> c.relowner
      group by c.oid, a.grantee order by c.oid::regclass::text collate "C", a.grantee`,
  },
];

export async function dumpSchema(databaseUrl: string): Promise<string> {
  const database = new Database({
    url: databaseUrl,
    applicationName: "onsale-dump",
    connectionsMax: 1,
    waitersMax: 1,
    connectTimeoutMs: CONNECT_TIMEOUT_MS,
    statementTimeoutMs: CONNECT_TIMEOUT_MS,
    lockTimeoutMs: CONNECT_TIMEOUT_MS,
  });
  try {
    const parts: string[] = [];
    for (const part of PARTS) {
      const rows = await database.query<{ line: string }>(part);
      if (rows.length > 0) parts.push(rows.map(({ line }) => line).join("\n"));
    }
    return `${parts.join("\n\n")}\n`;
  } finally {
    await database.close();
  }
}
