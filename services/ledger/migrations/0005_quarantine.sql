-- Working the quarantine: who did what, what a company's feeds mean by their words, messages that break their handler,
-- and what an EMR says it sent.

-- Everything that was done about an exception. feed_exception.state is where this has led to.
create table exception_history (
    company_id uuid not null,
    exception_id uuid not null,
    entry_no bigint generated always as identity,
    done_at timestamptz not null default clock_timestamp(),
    actor_id uuid not null,
    action text not null check (action in ('retried', 'retry_failed', 'resolved', 'dismissed')),
    reason text,
    detail json,
    note text,
    primary key (company_id, exception_id, entry_no),
    foreign key (company_id, exception_id) references feed_exception (company_id, exception_id)
);
create index feed_item_waiting on feed_item (company_id, feed_id, item_key) where outcome = 'quarantined';

-- What a feed calls a clinic, a payer or a procedure, and what that is here. One row per change, the last one holds;
-- without a target the mapping was taken away.
create table feed_mapping (
    company_id uuid not null,
    kind text not null check (kind in ('clinic', 'payer', 'procedure')),
    alias text not null,
    change_no bigint generated always as identity,
    target text,
    changed_by uuid not null,
    changed_at timestamptz not null default clock_timestamp(),
    primary key (company_id, kind, alias, change_no)
);
create index feed_mapping_clinic on feed_mapping (alias) where kind = 'clinic';
create view feed_mapping_now as
    select * from (
        select distinct on (company_id, kind, alias) * from feed_mapping order by company_id, kind, alias, change_no desc
    ) latest
    where target is not null;

-- Messages in the hands of a consumer, and those whose handling was begun before and never ended well. A row is gone
-- once its message has been dealt with.
create table feed_attempt (
    company_id uuid not null,
    message_key text not null,
    attempts integer not null,
    last_error_type text,
    first_seen timestamptz not null default clock_timestamp(),
    last_seen timestamptz not null default clock_timestamp(),
    primary key (company_id, message_key)
);

-- What an EMR says it has sent for a day of a clinic. Of several reports the one with the latest reported_at holds.
create table emr_totals (
    company_id uuid not null,
    source text not null,
    clinic text not null,
    day date not null,
    report_id uuid not null,
    location_id uuid not null,
    reported_at timestamptz not null,
    totals json not null,
    payments json,
    received_at timestamptz not null default clock_timestamp(),
    primary key (company_id, source, clinic, day, report_id),
    foreign key (company_id, location_id) references directory_location (company_id, location_id)
);
create index emr_totals_day on emr_totals (company_id, day);
create index feed_document_document on feed_document (company_id, document_id);

-- Exceptions that a retry has settled, and reports of totals: in one transaction with what `append_books` inserts.
-- The retried item is counted as what it has become; that it was quarantined stays in exception_history. An exception
-- that a person closed while it was being retried takes the whole posting back: he may have done the same by hand.
create function append_feed_work(settlements json, reports json)
returns void
language plpgsql volatile as $$
declare
    done record;
    waiting feed_exception;
begin
    if settlements is null and reports is null then
        return;
    end if;
    for done in select * from json_to_recordset(settlements) as s (
        company_id uuid, exception_id uuid, actor_id uuid, closes boolean, outcome text, reason text,
        amount_cents bigint, posted_cents bigint, payment_id uuid)
    loop
        select * into strict waiting from feed_exception e
        where e.company_id = done.company_id and e.exception_id = done.exception_id for update;
        continue when waiting.state = 'retried';
        if waiting.state <> 'open' then
            raise exception 'the exception was closed meanwhile';
        end if;
        if waiting.quarantined then
            update feed_item i set outcome = done.outcome, reason = done.reason, amount_cents = done.amount_cents,
                posted_cents = done.posted_cents, payment_id = done.payment_id
            where i.company_id = waiting.company_id and i.feed_id = waiting.feed_id and i.item_id = (
                select w.item_id from feed_item w
                where w.company_id = waiting.company_id and w.feed_id = waiting.feed_id
                    and w.item_key = waiting.item_key and w.outcome = 'quarantined' and w.reason = waiting.reason
                order by w.received_at, w.item_id limit 1);
            -- What came again while it waited is a repetition of it, unless it waits for a person itself.
            update feed_item i set outcome = 'duplicate', reason = 'same_key'
            where i.company_id = waiting.company_id and i.feed_id = waiting.feed_id
                and i.item_key = waiting.item_key and i.outcome = 'quarantined' and i.reason = waiting.reason
                and not exists (
                    select from feed_exception e
                    where e.company_id = waiting.company_id and e.feed_id = waiting.feed_id
                        and e.item_key = waiting.item_key and e.reason = waiting.reason
                        and e.quarantined and e.state <> 'retried' and e.exception_id <> waiting.exception_id);
        end if;
        continue when not done.closes;
        update feed_exception e set state = 'retried', state_by = done.actor_id, state_at = clock_timestamp(),
            payment_id = coalesce(e.payment_id, done.payment_id)
        where e.company_id = waiting.company_id and e.exception_id = waiting.exception_id;
        insert into exception_history (company_id, exception_id, actor_id, action, reason)
        values (waiting.company_id, waiting.exception_id, done.actor_id, 'retried', coalesce(done.reason, done.outcome));
    end loop;
    insert into emr_totals (company_id, source, clinic, day, report_id, location_id, reported_at, totals, payments)
    select company_id, source, clinic, day, report_id, location_id, reported_at, totals, payments
    from json_populate_recordset(null::emr_totals, reports);
end $$;

grant select on exception_history, feed_mapping, feed_mapping_now, feed_attempt, emr_totals to ledger_app;
grant insert on exception_history, feed_mapping, emr_totals to ledger_app;
grant insert, update, delete on feed_attempt to ledger_app;
grant update (outcome, reason, amount_cents, posted_cents, payment_id) on feed_item to ledger_app;
