-- What is switched off by enable_* still has a cost, of 1e10, and at 1e5 PostgreSQL begins to compile a statement where it was
-- built with LLVM, as Debian's and the official images are. That takes more time than these statements.
alter function changes_after set jit = off;
alter function decide_batch set jit = off;
alter function gather_deliveries set jit = off;
alter function hold_place set jit = off;
alter function outcomes_of set jit = off;
alter function snapshots_of set jit = off;
