/** What is asked of the door while connections are harmed: each answer can be told from every other one. */
import { Connection, Refusal } from "../../../shared/database/connection.ts";
import { type Database, DatabaseError, type Statement } from "../../../shared/database/database.ts";
import type { Ledger } from "./ledger.ts";

export const STATEMENT_MS = 300;
export const CONNECT_MS = 600;
/** What a busy machine adds to a deadline. */
const SLACK_MS = 1_500;

/** The tables and functions that the statements need. */
export const SCHEMA = `
  create table written (id bigint, part int);
  create function write_both(bigint) returns bigint language plpgsql as $$
  begin
    insert into written values ($1, 1);
    perform pg_sleep(random() * 0.01);
    insert into written values ($1, 2);
    return $1;
  end $$`;

/** Whole numbers from 0 up to, and not with, a bound. */
export type Draw = (below: number) => number;
type Row = Readonly<Record<string, unknown>>;

interface Question {
  readonly values: unknown[];
  readonly isAnswer: (rows: readonly Row[]) => boolean;
}

interface Kind {
  readonly statement: Statement;
  readonly isWrite?: boolean;
  /** What to ask for, and whether that was answered. */
  question(id: number, draw: Draw): Question;
}

const WRITE: Kind = {
  statement: { name: "write", text: "select write_both($1)::text as id" },
  isWrite: true,
  question: (id) => ({ values: [id], isAnswer: (rows) => isOneRow(rows, { id: String(id) }) }),
};
const READ: Kind = {
  statement: { name: "read", text: "select $1::bigint::text as id, repeat('x', $2::int) as filler" },
  question(id, draw) {
    const size = draw(2) === 0 ? draw(200) : draw(200_000);
    return {
      values: [id, size],
      isAnswer: (rows) => isOneRow(rows, { id: String(id), filler: "x".repeat(size) }),
    };
  },
};
const WITHOUT_VALUES: Kind = {
  statement: { name: "without-values", text: "select 41 + 1 as answer" },
  question: () => ({ values: [], isAnswer: (rows) => isOneRow(rows, { answer: 42 }) }),
};
const MANY_ROWS: Kind = {
  statement: {
    name: "many-rows",
    text: "select $1::bigint::text as id, n from generate_series(1, $2::int) n",
  },
  question(id, draw) {
    const size = draw(3_000);
    return {
      values: [id, size],
      isAnswer: (rows) =>
        rows.length === size &&
        rows.every((row, index) => row?.["id"] === String(id) && row["n"] === index + 1),
    };
  },
};
/** Is refused after rows were sent: neither these nor their holes may be in the next result. */
const HALF: Kind = {
  statement: {
    name: "half",
    text: "select $1::bigint::text as id, 1 / (n - $2::int) as x from generate_series(1, 5000) n",
  },
  question: (id, draw) => ({ values: [id, 1 + draw(4_000)], isAnswer: () => false }),
};
const SLEEP: Kind = {
  statement: { name: "sleep", text: "select $1::bigint::text as id, pg_sleep($2::float) is null as slept" },
  question: (id, draw) => ({
    // One in ten runs into the statement's timeout.
    values: [id, draw(10) === 0 ? 1 : draw(20) / 1_000],
    isAnswer: (rows) => isOneRow(rows, { id: String(id), slept: false }),
  }),
};
const SUICIDE: Kind = {
  statement: {
    name: "suicide",
    text: "select $1::bigint::text as id, pg_terminate_backend(pg_backend_pid())",
  },
  question: (id) => ({ values: [id], isAnswer: () => false }),
};
/** Each as often as it stands here. */
const KINDS: readonly Kind[] = [
  ...Array.from({ length: 12 }, () => WRITE),
  ...Array.from({ length: 8 }, () => READ),
  ...[WITHOUT_VALUES, MANY_ROWS, HALF, SLEEP].flatMap((kind) => Array.from({ length: 4 }, () => kind)),
  SUICIDE,
];

/** Runs one statement through the pool. */
export async function runStatement(database: Database, draw: Draw, ledger: Ledger): Promise<void> {
  const id = ledger.nextId();
  const kind = KINDS[draw(KINDS.length)] ?? WRITE;
  const { statement, isWrite = false } = kind;
  const { values, isAnswer } = kind.question(id, draw);
  const what = isWrite ? "write" : "read";
  await inTime(`${statement.name} ${id}`, CONNECT_MS * 2 + STATEMENT_MS * 2, ledger, async () => {
    try {
      const rows = await database.query<Row>(statement, values);
      const seen = () => JSON.stringify(rows.slice(0, 3)).slice(0, 200);
      ledger.check(isAnswer(rows), `${statement.name} ${id} was answered by ${rows.length} rows: ${seen()}`);
      if (isWrite) ledger.acknowledged.add(id);
      ledger.count(`${what}: answered`);
    } catch (error) {
      if (!(error instanceof DatabaseError)) throw error;
      if (isWrite) (error.kind === "lost" ? ledger.unknown : ledger.refused).add(id);
      ledger.count(`${what}: ${error.kind} ${error.sqlState ?? ""}`.trim());
    }
  });
}

/** Writes in a transaction of several statements on a connection of its own, some of which are given up half-way. */
export async function runTransaction(url: string, applicationName: string, ledger: Ledger): Promise<void> {
  const id = ledger.nextId();
  const progress = { isCommitting: false };
  using connection = new Connection({
    url,
    session: { application_name: applicationName, statement_timeout: String(STATEMENT_MS) },
    statementMs: 2 * STATEMENT_MS,
  });
  await inTime(`transaction ${id}`, CONNECT_MS + 6 * 2 * STATEMENT_MS, ledger, async () => {
    try {
      await connection.run("begin", [], undefined, CONNECT_MS);
      const isCommitted =
        id % 3 === 0
          ? await writeByScript(connection, id, progress)
          : await writeOneByOne(connection, id, progress, ledger);
      (isCommitted ? ledger.acknowledged : ledger.refused).add(id);
      ledger.count(`transaction: ${isCommitted ? "committed" : "rolled back"}`);
    } catch (error) {
      const isRefused = error instanceof Refusal && !/^(57P0|08)/.test(error.sqlState);
      const isUnknown = progress.isCommitting && !isRefused;
      (isUnknown ? ledger.unknown : ledger.refused).add(id);
      ledger.count(`transaction: ${isUnknown ? "unknown" : "failed"}`);
    }
  });
}

async function writeByScript(
  connection: Connection,
  id: number,
  progress: { isCommitting: boolean },
): Promise<boolean> {
  progress.isCommitting = true;
  await connection.script(
    `insert into written values (${id}, 1); insert into written values (${id}, 2); commit`,
  );
  return true;
}

/** Every fifth meets a refusal half-way, and its connection goes on. */
async function writeOneByOne(
  connection: Connection,
  id: number,
  progress: { isCommitting: boolean },
  ledger: Ledger,
): Promise<boolean> {
  const insert = async (part: number) => connection.run("insert into written values ($1, $2)", [id, part]);
  await insert(1);
  if (id % 5 === 0) {
    await connection.run("select 1 / 0").catch((error: unknown) => {
      if (!(error instanceof Refusal)) throw error;
    });
    await connection.run("rollback");
    const rows = await connection.run<Row>("select $1::bigint::text as id", [id]);
    ledger.check(isOneRow(rows, { id: String(id) }), `after its rollback ${id} got ${JSON.stringify(rows)}`);
    return false;
  }
  await insert(2);
  progress.isCommitting = true;
  await connection.run("commit");
  return true;
}

/** Whatever happens, it happens before the deadline, and nothing but the faults of the catalogue is thrown. */
async function inTime(
  what: string,
  withinMs: number,
  ledger: Ledger,
  task: () => Promise<void>,
): Promise<void> {
  const began = performance.now();
  await task().catch((error: unknown) => ledger.check(false, `${what} threw ${String(error)}`));
  const took = Math.round(performance.now() - began);
  ledger.check(took < withinMs + SLACK_MS, `${what} took ${took} ms`);
}

function isOneRow(rows: readonly Row[], row: Row): boolean {
  const [only] = rows;
  return (
    rows.length === 1 &&
    only !== undefined &&
    Object.keys(only).length === Object.keys(row).length &&
    Object.entries(row).every(([name, value]) => only[name] === value)
  );
}
