-- A fee schedule is replaced as a whole (0006 has the table).
grant delete on fee_schedule to ledger_app;
