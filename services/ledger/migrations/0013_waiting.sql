-- Adjustments that wait in the quarantine for their charge, and are posted with it.

-- What is waited for, and what is asked of the books when it comes: the charge that a source calls so, or, where the
-- source is empty, any charge of the patient with this account number. It is found and written by `load_waiting` and
-- `append_feed_work` (0017).
alter table feed_exception add column waits_source text;
alter table feed_exception add column waits_name text;
alter table feed_exception add column command json;
create index feed_exception_waiting on feed_exception (company_id, waits_source, waits_name)
    where state = 'open' and waits_name is not null;
