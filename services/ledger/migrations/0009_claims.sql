-- What became of the claims that were sent, as acknowledgements and remittances tell it; and our answers to what came
-- in. Nothing here moves money: amounts are what was said about a claim, never what stands in the books.

-- A claim is known by its number: CLM01 of what was sent, CLP01 of an 835, TRN02 or REF*EJ of a 277.
create table claim (
    company_id uuid not null,
    claim_id uuid not null,
    claim_number text not null,
    primary key (company_id, claim_id),
    unique (company_id, claim_number)
);

-- One row for every time that somebody said something about a claim; append-only. The state of a claim is its row with
-- the latest date. On one day a payer's word outranks a receiver's, and a reversal is followed by its correction,
-- whichever came first in the file (`standing`).
create table claim_state (
    company_id uuid not null,
    claim_id uuid not null,
    entry_no bigint generated always as identity,
    statement_key text not null,
    state text not null check (state in ('accepted', 'rejected', 'pending', 'finalized', 'forwarded', 'paid',
        'zero_paid', 'denied', 'reversed', 'predetermined')),
    standing smallint not null,
    effective_date date not null,
    recorded_at timestamptz not null default clock_timestamp(),
    source text not null check (source in ('277', '835', '997', '999')),
    feed_id uuid not null,
    item_key text not null,
    payer text,
    payer_control_number text,
    clearinghouse_number text,
    batch_reference text,
    codes text[] not null,
    charge_cents bigint,
    paid_cents bigint,
    primary key (company_id, claim_id, entry_no),
    unique (company_id, statement_key, claim_id),
    foreign key (company_id, claim_id) references claim (company_id, claim_id),
    foreign key (company_id, feed_id) references feed (company_id, feed_id)
);
create index claim_state_latest on claim_state (company_id, claim_id, effective_date desc, standing desc, entry_no desc);
create index claim_state_state on claim_state (company_id, state, claim_id);
create index claim_state_date on claim_state (company_id, effective_date, claim_id);
create index claim_state_batch on claim_state (company_id, batch_reference) where batch_reference is not null;

-- A TA1, 997, 999 or 277 that was taken, by its content: whoever delivers it again changes nothing.
create table acknowledgement (
    company_id uuid not null,
    content_key text not null,
    feed_id uuid not null,
    item_key text not null,
    standard text not null,
    sender text not null,
    effective_date date not null,
    primary key (company_id, content_key),
    foreign key (company_id, feed_id) references feed (company_id, feed_id)
);

-- What it says about an interchange, a group, a transaction or a batch that was sent. Which claims were in it is known
-- only where a 277 repeats the number of their batch (BHT03) and that is the transaction's own (ST02).
create table acknowledgement_verdict (
    company_id uuid not null,
    content_key text not null,
    verdict_no integer not null,
    kind text not null check (kind in ('interchange', 'group', 'transaction', 'batch')),
    accepted boolean not null,
    status text not null,
    codes text[] not null,
    interchange_control text,
    group_control text,
    set_id text,
    reference text,
    primary key (company_id, content_key, verdict_no),
    foreign key (company_id, content_key) references acknowledgement (company_id, content_key)
);
create index acknowledgement_verdict_reference on acknowledgement_verdict (company_id, reference)
    where kind = 'transaction';

-- Add what an item of a feed says about claims: a JSON list of rows of `claim_state` with the number of the claim and an
-- id for it if it is new. What was added before is not added again.
create function note_claims(company uuid, feed uuid, item text, said_by text, said_for text, statements json)
returns void
language plpgsql volatile as $$
begin
    insert into claim (company_id, claim_id, claim_number)
    select distinct on (s.claim_number) company, s.claim_id, s.claim_number
    from json_to_recordset(statements) as s (claim_id uuid, claim_number text)
    order by s.claim_number
    on conflict do nothing;
    insert into claim_state (company_id, claim_id, statement_key, state, standing, effective_date, source, feed_id,
        item_key, payer, payer_control_number, clearinghouse_number, batch_reference, codes, charge_cents, paid_cents)
    select company, c.claim_id, s.statement_key, s.state, s.standing, coalesce(s.effective_date, current_date), said_by,
        feed, item, said_for, s.payer_control_number, s.clearinghouse_number, s.batch_reference, s.codes,
        s.charge_cents, s.paid_cents
    from json_to_recordset(statements) as s (place integer, claim_number text, statement_key text, state text,
        standing smallint, effective_date date, payer_control_number text, clearinghouse_number text,
        batch_reference text, codes text[], charge_cents bigint, paid_cents bigint)
    join claim c on c.company_id = company and c.claim_number = s.claim_number
    order by s.place
    on conflict do nothing;
end $$;

-- Verdicts on transactions, told to the claims that are known to have been in them; in whatever order both came. A
-- number of a few digits counts transactions and names none.
create function link_verdicts(company uuid, found_in text[], batches text[])
returns void
language sql volatile as $$
    insert into claim_state (company_id, claim_id, statement_key, state, standing, effective_date, source, feed_id,
        item_key, batch_reference, codes)
    select company, c.claim_id, v.content_key || ':' || v.verdict_no,
        case when v.accepted then 'accepted' else 'rejected' end, 0, a.effective_date, a.standard, a.feed_id,
        a.item_key, v.reference, v.codes
    from acknowledgement_verdict v
    join acknowledgement a on a.company_id = v.company_id and a.content_key = v.content_key
    join (
        select distinct s.claim_id, s.batch_reference from claim_state s
        where s.company_id = company and s.batch_reference is not null and s.source = '277'
    ) c on c.batch_reference = v.reference
    where v.company_id = company and v.kind = 'transaction' and v.set_id = '837' and length(v.reference) > 4
        and (v.content_key = any (found_in) or v.reference = any (batches))
    on conflict do nothing
$$;

-- TA1 and 999 that we made for an interchange that asked for them (ISA14), once for each feed.
create table feed_reply (
    company_id uuid not null,
    feed_id uuid not null,
    reply_no integer not null,
    kind text not null check (kind in ('TA1', '999')),
    bytes bytea not null,
    made_at timestamptz not null default clock_timestamp(),
    primary key (company_id, feed_id, reply_no),
    foreign key (company_id, feed_id) references feed (company_id, feed_id)
);
create sequence x12_control as bigint minvalue 1 maxvalue 999999999 cycle;

grant select, insert on claim, claim_state, acknowledgement, acknowledgement_verdict, feed_reply to ledger_app;
grant usage on sequence x12_control to ledger_app;
