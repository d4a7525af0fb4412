-- What feeds sent, and what became of it. company_id is the nil UUID where the company cannot be told.

create table feed (
    company_id uuid not null,
    feed_id uuid not null,
    format text not null check (format in ('x12', 'emr')),
    channel text not null check (channel in ('http', 'amqp')),
    sender text not null,
    body_hash bytea,
    byte_count bigint not null default 0,
    received_at timestamptz not null default clock_timestamp(),
    state text not null default 'processing' check (state in ('processing', 'done')),
    -- When somebody last worked on it: a feed that is neither done nor worked on was abandoned, and is taken up again.
    worked_at timestamptz not null default clock_timestamp(),
    primary key (company_id, feed_id)
);
create index feed_received on feed (company_id, received_at);
create index feed_unfinished on feed (company_id, worked_at) where state = 'processing';

-- The raw form, in chunks, kept for ever: a corrected reader can read it again.
create table feed_chunk (
    company_id uuid not null,
    feed_id uuid not null,
    chunk_no integer not null,
    bytes bytea not null,
    primary key (company_id, feed_id, chunk_no),
    foreign key (company_id, feed_id) references feed (company_id, feed_id)
);

-- One row per thing counted: an ST transaction, an event. received = the number of rows.
create table feed_item (
    company_id uuid not null,
    feed_id uuid not null,
    item_id uuid not null,
    item_key text not null,
    outcome text not null check (outcome in ('posted', 'duplicate', 'ignored', 'quarantined')),
    reason text,
    amount_cents bigint not null default 0,
    posted_cents bigint not null default 0,
    payment_id uuid,
    received_at timestamptz not null default clock_timestamp(),
    primary key (company_id, feed_id, item_id),
    foreign key (company_id, feed_id) references feed (company_id, feed_id)
);

-- What a person must look at: something quarantined whole, or a claim or line of a posted receipt.
create table feed_exception (
    company_id uuid not null,
    exception_id uuid not null,
    feed_id uuid not null,
    item_key text not null,
    reason text not null,
    quarantined boolean not null,
    detail json not null,
    raw text,
    payment_id uuid,
    source text not null,
    created_at timestamptz not null default clock_timestamp(),
    state text not null default 'open' check (state in ('open', 'retried', 'resolved', 'dismissed')),
    state_by uuid,
    state_at timestamptz,
    state_note text,
    primary key (company_id, exception_id),
    foreign key (company_id, feed_id) references feed (company_id, feed_id)
);
create index feed_exception_open on feed_exception (company_id, state, created_at);
create index feed_exception_feed on feed_exception (company_id, feed_id);
-- What was quarantined is looked at once, however often it is delivered.
create unique index feed_exception_once on feed_exception
    (company_id, feed_id, item_key, reason, (coalesce(md5(raw), ''))) where quarantined;

-- The EMR's name for a document, and the highest version of it that we know. Changed with the posting it caused.
create table feed_document (
    company_id uuid not null,
    source text not null,
    kind text not null check (kind in ('payment', 'charge')),
    external_id text not null,
    external_version bigint not null,
    document_id uuid,
    deleted boolean not null,
    content_hash bytea not null,
    primary key (company_id, source, kind, external_id)
);

-- A remittance by its payment key (payer, trace number, amount, date, payee): the second dedupe level (feeds.md 0.6).
create table remittance (
    company_id uuid not null,
    payment_key text not null,
    content_hash bytea not null,
    payment_id uuid not null,
    version bigint not null,
    primary key (company_id, payment_key),
    foreign key (company_id, payment_id) references payment (company_id, payment_id)
);

-- A line of a remittance that was applied: the third dedupe level. A line is applied by one payment, whichever file
-- repeats it.
create table remittance_line (
    company_id uuid not null,
    line_key text not null,
    payment_id uuid not null,
    charge_id uuid not null,
    version bigint not null,
    primary key (company_id, line_key, payment_id),
    foreign key (company_id, payment_id) references payment (company_id, payment_id),
    foreign key (company_id, charge_id) references charge (company_id, charge_id)
);

-- An EMR client reads its own feeds: what it uploaded, and what came over AMQP from its sources.
create function feed_belongs_to(channel text, sender text, client text)
returns boolean
language sql stable as $$
    select sender = client
        or channel = 'amqp' and exists (
            select from directory_client c where c.client_id = client and sender = any (c.sources))
$$;
